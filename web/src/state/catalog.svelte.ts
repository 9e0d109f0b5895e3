/** What the server has: models that chat and levers a client may pull. Read once, and again on demand. */

import { listLevers, listModels } from "../api/calls";
import type { LeverInfo, ModelInfo } from "../api/types";
import { attempt } from "./notices.svelte";
import { preferences } from "./preferences.svelte";

class Catalog {
  models = $state.raw<ModelInfo[]>([]);
  levers = $state.raw<LeverInfo[]>([]);

  /** Fulfilled once the models are known; nothing can be asked before. */
  readonly modelsRead: Promise<void>;
  private tellRead: () => void = () => {};

  constructor() {
    this.modelsRead = new Promise((resolve) => {
      this.tellRead = resolve;
    });
  }

  async load(): Promise<void> {
    await Promise.all([attempt(() => this.loadModels()), attempt(() => this.loadLevers())]);
  }

  private async loadModels(): Promise<void> {
    this.models = (await listModels()).filter((model) => (model.steelyard?.kind ?? "chat") === "chat");
    if (!this.models.some((model) => model.id === preferences.kept.model)) preferences.change({ model: this.models[0]?.id ?? "" });
    this.tellRead();
  }

  private async loadLevers(): Promise<void> {
    this.levers = (await listLevers()).filter((lever) => lever.per_request);
  }

  /** `name` where the server has it, else the first it has. */
  known(name: string): string {
    return this.models.some((model) => model.id === name) ? name : (this.models[0]?.id ?? name);
  }
}

export const catalog = new Catalog();
