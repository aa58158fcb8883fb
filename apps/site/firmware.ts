/** The image formats, for the command line: one of them is a service's. */
export { detectFormat, FIRMWARE_FORMATS, firmwareFormat } from "../../services/firmware/formats.ts";
export { detectFile, extractFile, injectFile } from "../../services/firmware/one-file.ts";
export { withImageKey } from "./image-key.ts";
