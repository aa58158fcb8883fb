/** Every workflow of a site's worker, by its type name. */
export { handoff } from "./handoff.ts";
export { injection } from "./injection.ts";
export { installation } from "./installation.ts";
export { productionLot } from "./production-lot.ts";
export { acceptance } from "./acceptance.ts";
export { caRotation } from "./ca-rotation.ts";
export { delegation } from "./delegation.ts";
export { hubRegistration } from "./hub-registration.ts";
export { revocation } from "./revocation.ts";
export { rootCeremony } from "./root-ceremony.ts";
export { hubChange } from "./hub-change.ts";
export { hubRevocations } from "./hub-revocations.ts";
export { hubLine } from "./hub-line.ts";
