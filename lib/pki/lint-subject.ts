import { DEVICE_ID } from "../domain/ids.ts";
import { TAG } from "./der.ts";
import type { Name } from "./name.ts";
import { OID } from "./oids.ts";
import type { Profile } from "./profile-schema.ts";

/** Why the subject isn't one of the profile's, or undefined: attributes, their order and string types, and their values. */
export function subjectFault(subject: Name, rules: Profile["subject"]): string | undefined {
  const order = [
    { type: OID.countryName, presence: rules.country, tag: TAG.printableString },
    { type: OID.organizationName, presence: rules.organization, tag: TAG.utf8String },
    { type: OID.organizationalUnitName, presence: rules.organizationalUnit, tag: TAG.utf8String },
    { type: OID.commonName, presence: rules.commonName, tag: TAG.utf8String },
    { type: OID.serialNumber, presence: rules.serialNumber, tag: TAG.printableString },
  ];
  let position = 0;
  for (const rdn of subject.rdns) {
    const [attribute] = rdn;
    if (attribute === undefined || rdn.length !== 1) return "each RDN of the subject has one attribute";
    while (position < order.length && order[position]!.type !== attribute.type) {
      if (order[position++]!.presence === "required") return `the subject lacks a required attribute`;
    }
    const slot = order[position++];
    if (slot === undefined || slot.presence === "forbidden") return `subject attribute ${attribute.type} isn't allowed`;
    if (slot.tag !== attribute.tag) return `subject attribute ${attribute.type} has the wrong string type`;
    const length = [...(attribute.text ?? "")].length;
    if (slot.type === OID.organizationalUnitName && rules.role !== undefined && attribute.text !== rules.role) {
      return `the organizational unit must be ${rules.role}`;
    }
    if (length < 1 || length > 64) return `subject attribute ${attribute.type} must have 1 to 64 characters`;
  }
  if (order.slice(position).some((slot) => slot.presence === "required"))
    return "the subject lacks a required attribute";
  if (rules.commonNameForm === "device-id" && !DEVICE_ID.test(subject.cn ?? "")) {
    return "the common name isn't a device ID";
  }
  return undefined;
}
