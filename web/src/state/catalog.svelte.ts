/** What the server has: models that chat and levers a client may pull. Read once, and again on demand. */

import { listLevers, listModels } from "../api/calls";
import type { LeverInfo, ModelInfo } from "../api/types";
import { notices } from "./notices.svelte";
import { preferences } from "./preferences.svelte";

class Catalog {
  models = $state.raw<ModelInfo[]>([]);
  levers = $state.raw<LeverInfo[]>([]);
  read = $state(false);

  async load(): Promise<void> {
    const [models, levers] = await Promise.allSettled([listModels(), listLevers()]);
    if (models.status === "fulfilled") {
      this.models = models.value.filter((model) => (model.steelyard?.kind ?? "chat") === "chat");
      if (!this.models.some((model) => model.id === preferences.kept.model)) preferences.change({ model: this.models[0]?.id ?? "" });
    } else notices.fail(models.reason);
    if (levers.status === "fulfilled") this.levers = levers.value.filter((lever) => lever.per_request);
    else notices.fail(levers.reason);
    this.read = true;
  }

  /** `name` where the server has it, else the first it has. */
  known(name: string): string {
    return this.models.some((model) => model.id === name) ? name : (this.models[0]?.id ?? name);
  }
}

export const catalog = new Catalog();
