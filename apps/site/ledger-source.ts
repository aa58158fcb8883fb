// By itself: who only reads a ledger's folder needs nothing else of a site.
export { journaledSource } from "../../services/ledger/copy-source.ts";
