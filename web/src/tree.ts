/** A conversation is a tree of messages that never change; what is seen is one path through it. Pure functions. */

import type { Message } from "./api/types";

export interface Tree {
  byId: Map<string, Message>;
  /** Children by parent id ("" for the roots), deleted messages left out and their children moved up. */
  children: Map<string, Message[]>;
  /** The nearest parent that is not deleted. */
  parent: Map<string, string | null>;
}

export function growTree(messages: readonly Message[]): Tree {
  const byId = new Map(messages.map((message) => [message.id, message]));
  const parent = new Map<string, string | null>();
  const children = new Map<string, Message[]>();
  for (const message of messages) {
    let up = message.parent;
    while (up !== null && byId.get(up)?.deleted) up = byId.get(up)?.parent ?? null;
    if (up !== null && !byId.has(up)) up = null;
    parent.set(message.id, up);
    if (message.deleted) continue;
    const among = children.get(up ?? "");
    if (among) among.push(message);
    else children.set(up ?? "", [message]);
  }
  return { byId, children, parent };
}

/** From the first message to `head`, without deleted ones. */
export function pathTo(tree: Tree, head: string | null): Message[] {
  const path: Message[] = [];
  for (let at = head; at !== null; at = tree.parent.get(at) ?? null) {
    const message = tree.byId.get(at);
    if (!message) break;
    if (!message.deleted) path.push(message);
  }
  return path.reverse();
}

/** The messages that stand at the same place, `message` among them, oldest first. */
export function siblingsOf(tree: Tree, message: Message): Message[] {
  return tree.children.get(tree.parent.get(message.id) ?? "") ?? [message];
}

/** The newest end of the branch that goes through `id`. */
export function tipOf(tree: Tree, id: string): string {
  let at = id;
  for (;;) {
    const newest = tree.children.get(at)?.at(-1);
    if (!newest) return at;
    at = newest.id;
  }
}

/** Every message from `id` down, itself included. */
export function countBelow(tree: Tree, id: string): number {
  const open = [id];
  let count = 0;
  for (let at = open.pop(); at !== undefined; at = open.pop()) {
    count += 1;
    for (const child of tree.children.get(at) ?? []) open.push(child.id);
  }
  return count;
}

export const textOf = (message: Pick<Message, "parts">): string =>
  message.parts.flatMap((part) => (part.type === "text" ? [part.text] : [])).join("\n\n");

/** Code points `start` to `end` of a text: places are counted so wherever the server tells them. */
export const sliceOf = (text: string, start: number, end?: number): string => Array.from(text).slice(start, end).join("");
