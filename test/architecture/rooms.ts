// Who may import whom: the whole list. What isn't here fails, a new folder too.

const LIB = ["lib/domain", "lib/pki", "lib/records", "lib/attestation", "lib/ledger", "lib/firmware"];
const BELOW_APPS = ["workflows", "activities", "services", "contracts", "hsm", "store", ...LIB];

/** Room (a folder) to the rooms that it may import. Every room may import itself. */
export const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  "apps/cli": [...LIB, "apps/device", "apps/site", "bench"],
  "apps/console": LIB,
  "apps/site": ["apps/gateway", "apps/hub", "apps/http", "apps/device", ...BELOW_APPS],
  "apps/gateway": ["apps/http", "services", "contracts", "store", ...LIB],
  "apps/hub": ["apps/http", "services", "contracts", "store", ...LIB],
  "apps/http": LIB,
  "apps/device": ["hsm", ...LIB],
  workflows: ["contracts", "lib/records", "lib/domain"],
  activities: ["contracts", "services", "store", "hsm", ...LIB],
  services: ["store", "hsm", ...LIB],
  store: LIB,
  contracts: LIB,
  hsm: LIB,
  "lib/firmware": ["lib/pki", "lib/records", "lib/domain"],
  "lib/ledger": ["lib/attestation", "lib/pki", "lib/records", "lib/domain"],
  "lib/attestation": ["lib/pki", "lib/records", "lib/domain"],
  "lib/pki": ["lib/domain"],
  "lib/records": ["lib/domain"],
  "lib/domain": [],
  bench: ["apps/cli", "apps/site", "apps/device", ...BELOW_APPS],
};

/** npm packages that only one room may import. */
export const ONE_IMPORTER: Readonly<Record<string, string>> = { pkcs11js: "hsm", "graphene-pk11": "hsm", pg: "store" };

/** Deterministic or browser-safe: no Node modules at all. */
export const WITHOUT_NODE = ["workflows", "contracts", "lib"];
