/** Citations of an answer with the index they were found in. */

import type { Lookup } from "./api/documents";
import type { Citation } from "./api/types";

export function cited(citations: readonly Citation[] = [], lookups: readonly Lookup[] = []): Citation[] {
  return citations.map((citation) => {
    const lookup = lookups.find((one) => one.considered.some(({ source, text }) => source === citation.source && text === citation.text));
    return lookup ? { ...citation, index: lookup.index } : citation;
  });
}
