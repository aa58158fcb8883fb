/** A party's ledger: recording acts, sequencing them, serving and exporting the log. */
export * from "./acts.ts";
export { actKey } from "./admission.ts";
export { journaledSource } from "./copy-source.ts";
export { exportLedger, folderSource } from "./export.ts";
export * from "./inclusion.ts";
export { createLedger, Sequencer, type SequencerOptions } from "./sequencer.ts";
export * from "./serve.ts";
export { nodeSha256, sha256Hex } from "./sha256.ts";
