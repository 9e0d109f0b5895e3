/** One thing after the other: what was asked for first is done first, however long a server takes for each. Pure. */

/** Takes work and does it once all that was given before is over, whether or not that went well. */
export function turns(): <T>(work: () => Promise<T>) => Promise<T> {
  let before: Promise<unknown> = Promise.resolve();
  return (work) => {
    const done = before.then(work);
    before = done.catch(() => undefined);
    return done;
  };
}
