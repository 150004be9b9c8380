/** How far the server's clock is ahead of the browser's, in ms. */
let ahead = 0;

/** noteTime learns the server's time from a Date header, which is exact to a second. */
export function noteTime(date: string | null) {
  const difference = date ? Date.parse(date) - Date.now() : NaN;
  if (!Number.isNaN(difference)) ahead = Math.abs(difference) > 5_000 ? difference : 0; // Below that it is the way that takes the time.
}

/** serverNow is the server's time, which decides what is late or has expired: the browser's clock may be wrong. */
export function serverNow(): number {
  return Date.now() + ahead;
}
