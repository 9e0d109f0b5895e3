/**
 * Lays a model's tokens and the numbers of its sources over rendered markdown: each token becomes a span with a class
 * for its probability, and `[2]` becomes a button. Markdown eats characters (`**`, `#`), so the token text is followed
 * greedily through what is shown; what is not found nearby stays plain rather than wrongly coloured.
 */

import type { Token } from "./api/types";

/** Where one class of probability ends and the next begins. */
const STEPS = [0.15, 0.4, 0.7, 0.9];
/** Characters that markdown may eat between two shown ones. */
const REACH = 96;

export const stepOf = (logprob: number): number => STEPS.filter((step) => Math.exp(logprob) >= step).length;

/** Source positions of shown characters: for each of `shown`, an index into `source`, or -1. */
export function follow(source: string, shown: string): Int32Array {
  const places = new Int32Array(shown.length).fill(-1);
  let at = 0;
  for (let i = 0; i < shown.length; i++) {
    const character = shown[i] as string;
    if (/\s/.test(character)) {
      let space = at;
      while (/[*_~`]/.test(source[space] ?? "")) space++;
      if (/\s/.test(source[space] ?? "")) {
        places[i] = space;
        at = space + 1;
      }
      continue;
    }
    const found = source.indexOf(character, at);
    if (found >= 0 && found - at < REACH) {
      places[i] = found;
      at = found + 1;
    }
  }
  return places;
}

function textNodes(root: HTMLElement): Text[] {
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT, (node) =>
    node.parentElement?.closest("button") ? NodeFilter.FILTER_REJECT : NodeFilter.FILTER_ACCEPT,
  );
  const nodes: Text[] = [];
  while (walker.nextNode()) nodes.push(walker.currentNode as Text);
  return nodes;
}

/** Wraps the shown text in spans, one per token; `data-token` holds the token's index. */
export function colourTokens(root: HTMLElement, tokens: readonly Token[]): void {
  const source = tokens.map((token) => token.text).join("");
  const owner = new Int32Array(source.length);
  let start = 0;
  tokens.forEach((token, index) => {
    owner.fill(index, start, start + token.text.length);
    start += token.text.length;
  });
  const nodes = textNodes(root);
  const places = follow(source, nodes.map((node) => node.data).join(""));
  let at = 0;
  for (const node of nodes) {
    const pieces = document.createDocumentFragment();
    let piece: Text | null = null;
    let last = -2;
    for (const character of node.data) {
      const place = places[at] as number;
      const token = place < 0 ? -1 : (owner[place] as number);
      at += character.length;
      if (piece && token === last) {
        piece.data += character;
        continue;
      }
      piece = document.createTextNode(character);
      last = token;
      const drawn = tokens[token];
      if (drawn) {
        const span = document.createElement("span");
        span.className = `token p${stepOf(drawn.logprob)}`;
        span.dataset.token = String(token);
        span.append(piece);
        pieces.append(span);
      } else pieces.append(piece);
    }
    node.replaceWith(pieces);
  }
}

/** Turns `[1]`...`[count]` into buttons that open the source. */
export function linkCitations(root: HTMLElement, count: number, name: (number: number) => string): void {
  for (const node of textNodes(root)) {
    if (!/\[\d+\]/.test(node.data) || node.parentElement?.closest("pre, code, a")) continue;
    const pieces = document.createDocumentFragment();
    for (const part of node.data.split(/(\[\d+\])/)) {
      const number = /^\[(\d+)\]$/.exec(part)?.[1];
      if (number && Number(number) >= 1 && Number(number) <= count) {
        const button = document.createElement("button");
        button.type = "button";
        button.className = "cite";
        button.dataset.cite = String(Number(number) - 1);
        button.textContent = number;
        button.setAttribute("aria-label", name(Number(number)));
        pieces.append(button);
      } else pieces.append(part);
    }
    node.replaceWith(pieces);
  }
}
