/** The room's door: tokens, signers and CA keys over PKCS#11. No PKCS#11 handle, session or PIN passes it. */
export { commandAuditSource, type TokenAuditSource } from "./audit-source.ts";
export { type CaKey, assertIssuer, lintedBytes } from "./ca-key.ts";
export {
  type Chip,
  chipTokenLabel,
  DEVICE_KEY_LABEL,
  type DeviceKey,
  engineUri,
  makeDeviceKey,
  openDeviceKey,
} from "./device-key.ts";
export { isRefusal as isHsmRefusal } from "./errors.ts";
export { type ImageKey } from "./image-key.ts";
export { type KeyRole, roleOfLabel } from "./key-role.ts";
export { DEFAULT_LIMITS, type HsmLimits } from "./limits.ts";
export { finalizeModule } from "./module.ts";
export { createPinFile, type PinSource } from "./pin.ts";
export {
  attemptExtraction,
  describeKeys,
  type ExtractionAttempt,
  initToken,
  type InitTokenRequest,
  type KeyDescription,
  listTokens,
  type TokenDescription,
  tokenExists,
} from "./token-admin.ts";
export { assertThreadsFor, sessionCount, threadPoolSize, threadsForSessions } from "./threads.ts";
export { openToken, type Token, type TokenConfig, type TokenHealth } from "./token.ts";
export { formatPkcs11Uri, parsePkcs11Uri, type Pkcs11Uri } from "./uri.ts";
export { nodeVerify, nodeVerifyAside } from "./verify.ts";
export { verifyTogether } from "./verify-together.ts";
