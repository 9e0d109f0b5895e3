/** A person's indexes of documents, followed while one of them is being built; and which one a conversation searches. */

import { attach } from "../api/calls";
import { addDocument, buildIndex, createIndex, deleteIndex, type DocumentIndex, listIndexes, removeDocument } from "../api/documents";
import { t } from "../texts/texts";
import { turns } from "../turns";
import { chat } from "./chat.svelte";
import { attempt, notices, wording } from "./notices.svelte";

const FOLLOW_MS = 400;

/** A file that did not get into an index. */
export interface Refused {
  index: string;
  name: string;
  reason: string;
}

class Indexes {
  list = $state.raw<DocumentIndex[]>([]);
  /** Names that everybody on this server may search. */
  shared = $state.raw<string[]>([]);
  read = $state(false);
  /** Files on their way, by index. */
  uploading = $state<Record<string, number>>({});
  refused = $state<Refused[]>([]);
  private timer: ReturnType<typeof setTimeout> | undefined;
  private readonly inTurn = turns();

  /** Reads the list anew; an answer of before never takes the place of a later one. */
  load(): Promise<void> {
    return this.inTurn(() => this.readList());
  }

  private async readList(): Promise<void> {
    clearTimeout(this.timer);
    await attempt(async () => {
      const told = await listIndexes();
      this.list = told.indexes;
      this.shared = told.shared;
      this.read = true;
    });
    if (this.list.some((index) => index.progress)) this.timer = setTimeout(() => void this.load(), FOLLOW_MS);
  }

  leave(): void {
    clearTimeout(this.timer);
  }

  async create(name: string): Promise<DocumentIndex | null> {
    let made: DocumentIndex | null = null;
    await attempt(async () => {
      made = await createIndex(name);
      await this.load();
    });
    return made;
  }

  async remove(index: DocumentIndex): Promise<void> {
    if (!(await attempt(() => deleteIndex(index.id)))) return;
    if (this.searched === index.name) this.search(null);
    notices.show(t("documents.deleted", { name: index.name }));
    await this.load();
  }

  async build(index: DocumentIndex): Promise<void> {
    await attempt(() => buildIndex(index.id));
    await this.load();
  }

  async take(index: DocumentIndex, document: string): Promise<void> {
    await attempt(() => removeDocument(index.id, document));
    await this.load();
  }

  /** Uploads files one after the other; each that fails is named with its reason and keeps no other from coming in. */
  async upload(index: DocumentIndex, files: readonly File[]): Promise<void> {
    this.refused = this.refused.filter((one) => one.index !== index.id);
    this.uploading[index.id] = files.length;
    for (const file of files) {
      try {
        const kept = await attach(file);
        const document = await addDocument(index.id, kept.id);
        if (document.already) this.refused.push({ index: index.id, name: file.name, reason: t("documents.already") });
      } catch (cause) {
        this.refused.push({ index: index.id, name: file.name, reason: wording(cause) });
      }
      this.uploading[index.id] = (this.uploading[index.id] ?? 1) - 1;
      await this.load();
    }
  }

  /** Puts files that are attached already into a new index of their name, and lets the conversation search it once it is built. */
  async index(name: string, attachments: readonly string[]): Promise<boolean> {
    let free = name;
    for (let number = 2; this.list.some((one) => one.name === free) || this.shared.includes(free); number += 1) free = `${name} (${number})`;
    const made = await this.create(free);
    if (!made) return false;
    const good = await attempt(async () => {
      for (const attachment of attachments) await addDocument(made.id, attachment);
    });
    await this.load();
    while (good && this.list.some((one) => one.id === made.id && one.progress)) await new Promise((go) => setTimeout(go, FOLLOW_MS));
    const built = this.list.some((one) => one.id === made.id && one.built);
    if (built) this.search(free);
    return built;
  }

  /** The names that can be searched: those for all, then a person's own. */
  get names(): string[] {
    return [...this.shared, ...this.list.filter((index) => index.built).map((index) => index.name)];
  }

  /** The index that the open conversation searches before it answers, or null. */
  get searched(): string | null {
    const documents = chat.settings.levers["retrieve"]?.["documents"];
    return typeof documents === "string" ? documents : null;
  }

  search(name: string | null): void {
    if (name === null) delete chat.settings.levers["retrieve"];
    else chat.settings.levers["retrieve"] = { ...chat.settings.levers["retrieve"], documents: name };
    chat.keepSettings();
  }
}

export const indexes = new Indexes();
