/** What the server has: models that chat and levers a client may pull. Read once, and again on demand. */

import { listLevers, listModels } from "../api/calls";
import type { LeverChoice, LeverInfo, ModelInfo } from "../api/types";
import { attempt } from "./notices.svelte";
import { t } from "../texts/texts";
import { type Answering, preferences } from "./preferences.svelte";

class Catalog {
  models = $state.raw<ModelInfo[]>([]);
  levers = $state.raw<LeverInfo[]>([]);
  /** Whether the levers are known: a server that was just started needs some seconds to describe them. */
  leversRead = $state(false);

  /** Fulfilled once the models are known; nothing can be asked before. */
  readonly modelsRead: Promise<void>;
  private tellRead: () => void = () => {};

  constructor() {
    this.modelsRead = new Promise((resolve) => {
      this.tellRead = resolve;
    });
  }

  async load(): Promise<void> {
    const models = attempt(() => this.loadModels());
    await Promise.all([models, attempt(() => this.loadLevers(models))]);
  }

  private async loadModels(): Promise<void> {
    this.models = (await listModels()).filter((model) => (model.steelyard?.kind ?? "chat") === "chat");
    if (!this.models.some((model) => model.id === preferences.kept.model)) preferences.change({ model: this.models[0]?.id ?? "" });
    this.tellRead();
  }

  /** Levers name models: one that is pulled takes the first of them, so they are shown once these are known. */
  private async loadLevers(models: Promise<unknown>): Promise<void> {
    const levers = await listLevers();
    await models;
    this.levers = levers;
    this.leversRead = true;
  }

  /** The names of the levers that a model offers for single answers: known at once, before they are described. */
  offers(model: string): string[] {
    return this.models.find((one) => one.id === this.known(model))?.steelyard?.levers ?? [];
  }

  /** Why a lever cannot be pulled for one answer of a model; null where it can. */
  refusal(lever: LeverInfo, model: string): string | null {
    const told = this.models.find((one) => one.id === this.known(model))?.steelyard;
    if (told?.pulled?.some((one) => lever.name in one)) return t("levers.pulled");
    if (!lever.per_request) return t("levers.atStart", { name: lever.name });
    return told?.levers && !told.levers.includes(lever.name) ? t("levers.notOffered", { model: this.known(model) }) : null;
  }

  /** Levers in the order in which they act, which is the one that the server takes: those that shape what is drawn, then those around it. */
  inOrder(levers: Answering["levers"]): LeverChoice[] {
    const place = (name: string): number => this.levers.findIndex((lever) => lever.name === name);
    const wraps = (name: string): number => (this.levers[place(name)]?.hooks?.includes("decode") ? 0 : 1);
    const names = Object.keys(levers).sort((one, other) => wraps(one) - wraps(other) || place(one) - place(other));
    return names.map((name) => ({ [name]: levers[name] ?? {} }));
  }

  /** `name` where the server has it, else the first it has. */
  known(name: string): string {
    return this.models.some((model) => model.id === name) ? name : (this.models[0]?.id ?? name);
  }
}

export const catalog = new Catalog();
