/** Where the page is, kept in the address after `#`, so that back, forward and bookmarks work. */

export type Route =
  | { view: "chat"; conversation: string | null }
  | { view: "reports"; report: string | null }
  | { view: "feedback" }
  | { view: "charts" }
  | { view: "documents" };

function parse(hash: string): Route {
  const [view, rest] = hash.replace(/^#\/?/, "").split("/", 2);
  const name = rest ? decodeURIComponent(rest) : null;
  if (view === "reports") return { view, report: name };
  if (view === "feedback" || view === "charts" || view === "documents") return { view };
  return { view: "chat", conversation: view === "c" ? name : null };
}

class Router {
  route = $state<Route>(parse(location.hash));

  constructor() {
    addEventListener("hashchange", () => {
      this.route = parse(location.hash);
    });
  }

  go(address: string): void {
    location.hash = address;
  }

  /** Changes the address without opening anything: what is shown is already there. */
  rename(address: string): void {
    history.replaceState(null, "", address);
    this.route = parse(location.hash);
  }
}

export const router = new Router();
export const addressOf = (conversation: string): string => `#/c/${encodeURIComponent(conversation)}`;
