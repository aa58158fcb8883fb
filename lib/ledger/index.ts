/** The ledger's formats and proofs: pure, the same in the sequencer, a command line and a browser. */
export * from "./add-checkpoint.ts";
export * from "./audit-log.ts";
export * from "./checkpoint.ts";
export * from "./cosignature.ts";
export * from "./edge.ts";
export * from "./http.ts";
export * from "./note.ts";
export * from "./policy.ts";
export * from "./proof.ts";
export * from "./reader.ts";
export * from "./split-view.ts";
export * from "./tiles.ts";
export * from "./tree.ts";
