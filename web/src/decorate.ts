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

/** Where a stretch of a text is, in code points, and how it reads. */
export interface Stretch {
  start: number;
  end: number;
  text: string;
}

const BLOCKS = "p, li, h1, h2, h3, h4, h5, h6, blockquote, div, td, th, pre";
const segmenter = new Intl.Segmenter(undefined, { granularity: "sentence" });

/** Wraps each sentence that is shown in a button; `data-sentence` holds its index among the stretches of `source` that come back. */
export function markSentences(root: HTMLElement, source: string): Stretch[] {
  const nodes = textNodes(root);
  const places = follow(source, nodes.map((node) => node.data).join(""));
  const found: Stretch[] = [];
  let at = 0;
  for (let first = 0; first < nodes.length; ) {
    const block = nodes[first]?.parentElement?.closest(BLOCKS);
    let next = first;
    let words = "";
    while (next < nodes.length && nodes[next]?.parentElement?.closest(BLOCKS) === block) words += nodes[next++]?.data ?? "";
    if (!block || block.closest("pre, table, .code-head")) {
      at += words.length;
      first = next;
      continue;
    }
    // The sentence of each character of this block, -1 between sentences.
    const owner = new Int32Array(words.length).fill(-1);
    for (const { segment, index } of segmenter.segment(words)) {
      const shown = segment.trim();
      const begin = index + segment.indexOf(shown);
      const mapped = Array.from(places.slice(at + begin, at + begin + shown.length)).filter((place) => place >= 0);
      if (shown === "" || mapped.length === 0) continue;
      const [from, to] = [Math.min(...mapped), Math.max(...mapped) + 1];
      owner.fill(found.length, begin, begin + shown.length);
      const text = source.slice(from, to);
      const start = [...source.slice(0, from)].length;
      found.push({ start, end: start + [...text].length, text });
    }
    let within = 0;
    for (const node of nodes.slice(first, next)) {
      const pieces = document.createDocumentFragment();
      for (let from = 0; from < node.data.length; ) {
        const mine = owner[within + from] ?? -1;
        let to = from + 1;
        while (to < node.data.length && owner[within + to] === mine) to++;
        const piece = document.createTextNode(node.data.slice(from, to));
        if (mine >= 0) {
          const span = document.createElement("span");
          span.className = "sentence";
          span.dataset.sentence = String(mine);
          span.append(piece);
          pieces.append(span);
        } else pieces.append(piece);
        from = to;
      }
      within += node.data.length;
      node.replaceWith(pieces);
    }
    at += words.length;
    first = next;
  }
  return found;
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
