/** One way to the server: JSON in and out, the key if there is one, failures as the server words them. */

/** A failure that says what the server said. `status` 0 means that it could not be reached. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
  ) {
    super(message);
  }
}

const KEY = "steelyard.key";
let askForKey: (() => Promise<string | null>) | null = null;

/** The page hands in how it asks a person for the server's key. */
export function onKeyNeeded(ask: () => Promise<string | null>): void {
  askForKey = ask;
}

/** Whether requests carry a key: what the browser fetches by itself (a frame, a link) then needs another way. */
export const hasKey = (): boolean => sessionStorage.getItem(KEY) !== null;

/** Forgets the key, and all that the page holds. */
export function forgetKey(): void {
  sessionStorage.removeItem(KEY);
  location.assign("/");
}

function withKey(init: RequestInit): RequestInit {
  const headers = new Headers(init.headers);
  const key = sessionStorage.getItem(KEY);
  if (key) headers.set("Authorization", `Bearer ${key}`);
  return { ...init, headers };
}

/** Fetches, asks for a key when the server wants one, and turns every bad status into an `ApiError`. */
export async function reach(path: string, init: RequestInit = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, withKey(init));
    while (response.status === 401 && askForKey) {
      const key = await askForKey();
      if (key === null) break;
      sessionStorage.setItem(KEY, key);
      response = await fetch(path, withKey(init));
    }
  } catch (cause) {
    if (cause instanceof DOMException && cause.name === "AbortError") throw cause;
    throw new ApiError("", 0);
  }
  if (!response.ok) throw new ApiError(await messageOf(response), response.status);
  return response;
}

/** OpenAI's error shape, FastAPI's, or whatever text there is. */
async function messageOf(response: Response): Promise<string> {
  const text = await response.text();
  try {
    const body = JSON.parse(text) as { error?: { message?: string }; detail?: unknown };
    if (body.error?.message) return body.error.message;
    if (typeof body.detail === "string") return body.detail;
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause;
  }
  return text.slice(0, 400) || `${response.status} ${response.statusText}`;
}

export async function read<T>(path: string): Promise<T> {
  return (await (await reach(path)).json()) as T;
}

export async function send<T>(method: "POST" | "PATCH" | "DELETE", path: string, body?: unknown): Promise<T> {
  const init: RequestInit = { method };
  if (body !== undefined) {
    init.headers = { "Content-Type": "application/json" };
    init.body = JSON.stringify(body);
  }
  const text = await (await reach(path, init)).text();
  return (text ? JSON.parse(text) : {}) as T;
}
