/**
 * Keeps the focus of people who use a keyboard. Where what had it goes (a button does its work and is not needed any more, a row is
 * deleted), the browser gives it to nobody, and the next Tab begins at the top of the page; here what is nearest takes it.
 */

const FOCUSABLE = 'a[href], button:not(:disabled), input:not(:disabled):not([hidden]), select:not(:disabled), textarea:not(:disabled), summary, iframe, [tabindex]';

/** Watches the whole page, from its beginning to its end. */
export function keepFocus(): void {
  let last: HTMLElement | null = null;
  let byKey = false;
  addEventListener("keydown", () => (byKey = true), true);
  addEventListener("pointerdown", () => (byKey = false), true);
  addEventListener("focusin", ({ target }) => (last = target instanceof HTMLElement ? target : null), true);
  new MutationObserver((changes) => {
    if (!byKey || last === null || document.activeElement !== document.body) return;
    const gone = last;
    const change = changes.find(({ removedNodes }) => [...removedNodes].some((node) => node.contains(gone)));
    if (!change) return;
    if (gone.isConnected) return gone.focus(); // it only changed its place
    // Whoever does the work may know better where to go on: what is nearest only takes what nobody took.
    setTimeout(() => document.activeElement === document.body && nearest(change)?.focus());
  }).observe(document.body, { childList: true, subtree: true });
}

/** A field that appears because somebody wants to write in it; `autofocus` does nothing where something else still has the focus. */
export const toField = (node: HTMLElement): void => node.focus();

/** What can have the focus and stands next to a place where something was removed, in the smallest part of the page that holds any. */
function nearest({ target, nextSibling, previousSibling }: MutationRecord): HTMLElement | null {
  for (let around = target instanceof Element ? target : target.parentElement; around?.isConnected; around = around.parentElement) {
    const all = [...around.querySelectorAll<HTMLElement>(FOCUSABLE)].filter((one) => one.checkVisibility({ visibilityProperty: true }));
    const after = (one: HTMLElement): boolean => {
      if (nextSibling?.isConnected) return one === nextSibling || follows(nextSibling, one);
      const before = previousSibling?.isConnected ? previousSibling : target;
      return !before.contains(one) && follows(before, one);
    };
    const found = all.find(after) ?? all.at(-1);
    if (found) return found;
  }
  return document.getElementById("main");
}

const follows = (node: Node, other: Node): boolean => Boolean(node.compareDocumentPosition(other) & Node.DOCUMENT_POSITION_FOLLOWING);
