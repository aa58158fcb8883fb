/** The image formats, for the command line: one of them is a service's. */
export { detectFormat, FIRMWARE_FORMATS, firmwareFormat } from "../../services/firmware/formats.ts";
