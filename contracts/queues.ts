/** Task queues of a site's namespace. Another party's server knows neither. */
export const QUEUES = {
  /** the site process: everything but the root key */
  site: "site",
  /** the one-shot ceremony process: the only one that holds the root's PIN */
  ceremony: "ceremony",
} as const;
