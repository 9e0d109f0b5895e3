/** How fast an answer was written. Pure. */

import type { Usage } from "./api/types";

/** An answer that comes within this share of its time after its first token came in one piece: it was finished before it was sent. */
const AT_ONCE = 0.02;

/**
 * Tokens per second since the first one; of an answer that came in one piece (of a search among answers, or one that was checked before it
 * was sent) over its whole time, because the time since says nothing of how fast it was written. Null where there is too little to tell.
 */
export function paceOf({ completion_tokens: tokens, seconds, first_token_seconds: first }: Usage): number | null {
  if (tokens === null || tokens < 2 || seconds <= 0) return null;
  const since = seconds - (first ?? 0);
  return first === null || since <= AT_ONCE * seconds ? tokens / seconds : (tokens - 1) / since;
}
