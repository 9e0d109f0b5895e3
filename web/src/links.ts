/** Addresses in what a person wrote, as pieces of text to show. Pure functions. */

export interface Piece {
  text: string;
  /** Where the piece leads, for one that is an address. */
  address?: string;
}

const ADDRESS = /\bhttps?:\/\/[^\s<>"'`“”‘’«»]+/giu;
const CLOSING: Record<string, string> = { ")": "(", "]": "[", "}": "{" };

/** Cuts a text at its http(s) addresses; the pieces joined are the text again. */
export function piecesOf(text: string): Piece[] {
  const pieces: Piece[] = [];
  let at = 0;
  for (const { 0: found, index } of text.matchAll(ADDRESS)) {
    const address = trimmed(found);
    if (!URL.canParse(address)) continue;
    if (index > at) pieces.push({ text: text.slice(at, index) });
    pieces.push({ text: address, address });
    at = index + address.length;
  }
  if (at < text.length) pieces.push({ text: text.slice(at) });
  return pieces;
}

/** Without what ends the sentence around it: a stop, or a bracket that was opened before it. */
function trimmed(address: string): string {
  let end = address.length;
  for (;;) {
    const last = address[end - 1] ?? "";
    const opening = CLOSING[last];
    const within = address.slice(0, end);
    const unopened = opening !== undefined && within.split(last).length > within.split(opening).length;
    if (!unopened && !/[.,;:!?…*_~]/.test(last)) return within;
    end -= 1;
  }
}

/** The host that a link leads to, in the letters of the address itself, where the words of the link do not already say it; else null. */
export function hiddenHost(address: string, words: string): string | null {
  if (!URL.canParse(address)) return null;
  const { host, protocol } = new URL(address);
  if (!/^https?:$/.test(protocol)) return null;
  const said = words.trim().toLowerCase();
  const plain = [host, `http://${host}`, `https://${host}`].some((start) => said === start || (said.startsWith(start) && /^[/?#]/.test(said.slice(start.length))));
  return plain ? null : host;
}
