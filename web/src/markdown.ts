/**
 * Markdown of a model, as HTML that can do no harm: HTML inside it is shown as text, images are never loaded (a link
 * stands in their place), links open elsewhere without telling from where, and the whole is sanitised once more.
 */

import DOMPurify from "dompurify";
import { Marked, type Token, type TokensList } from "marked";

import { parseBlock } from "./csv";
import { hiddenHost } from "./links";
import { t } from "./texts/texts";

const escape = (text: string): string =>
  text.replace(/[&<>"']/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" })[c] ?? c);

const languageOf = (lang: string | undefined): string => ((lang ?? "").split(/\s/)[0] ?? "").toLowerCase();

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => escape(text),
    image: ({ href, text }) =>
      `<a class="image-not-loaded" href="${escape(href)}">${escape(t("image.notLoaded", { name: text || href }))}</a>`,
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    code: ({ text, lang }) =>
      `<div class="code"><div class="code-head"><span>${escape(languageOf(lang))}</span>` +
      (parseBlock(text, languageOf(lang)) ? `<button type="button" data-do="chart" class="as-${languageOf(lang)}">${escape(t("chart.fromTable"))}</button>` : "") +
      `<button type="button" data-do="copy">${escape(t("code.copy"))}</button></div><pre tabindex="0"><code>${escape(text)}</code></pre></div>`,
  },
});

const purify = DOMPurify(window);
purify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName !== "A") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer nofollow");
  const host = hiddenHost(node.getAttribute("href") ?? "", node.textContent ?? "");
  if (host !== null) node.setAttribute("data-host", host); // shown behind it (app.css): the words of a link may say anything
});

const ALLOWED = {
  ALLOWED_TAGS: (
    "p br hr h1 h2 h3 h4 h5 h6 strong em del code pre blockquote ul ol li a table thead tbody tr th td div span button sup sub"
  ).split(" "),
  ALLOWED_ATTR: ["href", "class", "start", "align", "type", "tabindex", "data-do"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ADD_URI_SAFE_ATTR: ["start", "align", "type", "tabindex", "data-do"], // their values are no addresses, and were dropped as bad ones
  ALLOW_DATA_ATTR: false,
};

/** The HTML of each block of `text`. Blocks that did not change give equal strings, so a stream redraws only its last one. */
export function htmlBlocks(text: string): string[] {
  const tokens = marked.lexer(text);
  return tokens.filter((token) => token.type !== "space").map((token) => htmlOf(token, tokens.links));
}

/** For each of those blocks: where a table or a fenced block stands in `text`, in code points; null for other blocks. */
export function blockRanges(text: string): ({ start: number; end: number } | null)[] {
  const points: number[] = []; // of each unit as marked reads it, with \n for every line end, the code point in `text`
  let point = 0;
  for (let at = 0; at < text.length; ) {
    const pair = text.startsWith("\r\n", at);
    const wide = (text.codePointAt(at) ?? 0) > 0xffff;
    for (let unit = 0; unit < (wide ? 2 : 1); unit++) points.push(point);
    point += pair ? 2 : 1;
    at += pair || wide ? 2 : 1;
  }
  points.push(point);
  const read = text.replace(/\r\n|\r/g, "\n");
  let at = 0;
  const ranges: ({ start: number; end: number } | null)[] = [];
  for (const token of marked.lexer(text)) {
    const whole = read.startsWith(token.raw, at);
    const start = points[at];
    const end = points[at + token.raw.length];
    at += token.raw.length;
    if (token.type === "space") continue;
    const data = token.type === "table" || token.type === "code";
    ranges.push(data && whole && start !== undefined && end !== undefined ? { start, end } : null);
  }
  return ranges;
}

const cache = new Map<string, string>();

function htmlOf(token: Token, links: TokensList["links"]): string {
  const known = cache.get(token.raw);
  if (known !== undefined) return known;
  let html = purify.sanitize(marked.parser(Object.assign([token], { links })), ALLOWED);
  if (token.type === "table") {
    html = `<div class="table"><div class="table-scroll" tabindex="0">${html}</div><button type="button" data-do="chart">${escape(t("chart.fromTable"))}</button></div>`;
  }
  const usesLinks = Object.keys(links).length > 0;
  if (!usesLinks) {
    if (cache.size > 2000) cache.clear();
    cache.set(token.raw, html);
  }
  return html;
}
