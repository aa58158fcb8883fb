/**
 * The ledger's tables. Ordering rules live here, in the statements; what is hashed and signed is decided above.
 */
export * from "./ledger-acts.ts";
export * from "./ledger-blobs.ts";
export * from "./ledger-queue.ts";
export * from "./ledger-tree.ts";
