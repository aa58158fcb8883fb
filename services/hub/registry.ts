/**
 * What a site drives a hub by, whichever it is: this program's own, or Azure IoT Hub with its provisioning service.
 * Every call may be made again after any failure, also one whose answer was lost: it finds what it did before.
 * Errors of kind `unavailable` (out of reach, throttled, changed by somebody else meanwhile) are worth another try; a
 * refusal isn't.
 */

/** One list of CAs. Azure has two: the hub's, and its provisioning service's. */
export interface CaRegistry {
  /** for people: `IoT Hub line-1` */
  readonly place: string;
  /**
   * Uploads the certificate where it isn't there yet, and gives the code that the CA's key has to sign; undefined when
   * this very certificate is verified there.
   * @throws CountersignError `state-conflict` when the name holds another certificate
   */
  offer(ca: OfferedCa): Promise<CodeOffer | undefined>;
  /** @param verification DER, CN = the code, signed by the CA's key */
  verify(ca: OfferedCa, offer: CodeOffer, verification: Uint8Array): Promise<void>;
  list(): Promise<HubCaView[]>;
  /** Nothing under this certificate connects any more. False when it wasn't there. */
  remove(name: string): Promise<boolean>;
}

export interface OfferedCa {
  readonly name: string;
  /** DER */
  readonly certificate: Uint8Array;
  /** the CA, registered under another name, whose devices also come with this one: it was renewed or rotated */
  readonly succeeds?: string | undefined;
}

export interface CodeOffer {
  readonly code: string;
  /** the version of the entry that the code belongs to, where the hub counts versions */
  readonly etag?: string | undefined;
}

export interface HubCaView {
  readonly place: string;
  readonly name: string;
  readonly verified: boolean;
  /** of the DER, hex; SHA-1 is what Azure names certificates by */
  readonly thumbprint: { readonly algorithm: "sha256" | "sha1"; readonly value: string } | undefined;
  readonly etag?: string | undefined;
}

export interface HubDeviceView {
  readonly deviceId: string;
  readonly state: "enabled" | "disabled";
}

export interface DeviceRegistry {
  /** @throws CountersignError `already-exists` when the ID is a device's that isn't known by CA certificates */
  create(deviceId: string): Promise<HubDeviceView>;
  show(deviceId: string): Promise<HubDeviceView | undefined>;
  /** Kept out from now on, whether or not it has come before. */
  disable(deviceId: string): Promise<HubDeviceView>;
  /** @throws CountersignError `not-found` */
  enable(deviceId: string): Promise<HubDeviceView>;
  /** False when there was none. */
  remove(deviceId: string): Promise<boolean>;
}

export interface EnrollmentGroupView {
  readonly name: string;
  /** the CA's name; a second one while devices move from one certificate of it to the next */
  readonly cas: readonly string[];
  readonly state: "enabled" | "disabled";
}

/** Provisions the devices of a CA. */
export interface EnrollmentRegistry {
  /** @param cas one name, or two: the newer one first */
  put(name: string, cas: readonly string[]): Promise<EnrollmentGroupView>;
  show(name: string): Promise<EnrollmentGroupView | undefined>;
  /** @throws CountersignError `not-found` */
  setState(name: string, state: EnrollmentGroupView["state"]): Promise<EnrollmentGroupView>;
  remove(name: string): Promise<boolean>;
}

/** One entry that says whether something is provisioned. Changing it again changes nothing. */
export interface ProvisioningEntry {
  show(): Promise<"enabled" | "disabled" | undefined>;
  /** Made where there was none. */
  disable(): Promise<void>;
  /** Nothing where there is none. */
  enable(): Promise<void>;
  remove(): Promise<void>;
}

/** Keeps what a CA has taken back from being provisioned, whatever groups there are. */
export interface ProvisioningBlocks {
  /** @param certificates DER, those of this device that are known, the newest last */
  device(deviceId: string, certificates: readonly Uint8Array[]): ProvisioningEntry;
  /** @param certificate DER, of a CA below one that devices are provisioned by */
  ca(name: string, certificate: Uint8Array): ProvisioningEntry;
}

export interface HubRegistry {
  readonly kind: "embedded" | "azure";
  readonly cas: readonly CaRegistry[];
  readonly devices: DeviceRegistry;
  /** absent where the hub has no provisioning */
  readonly enrollments?: EnrollmentRegistry | undefined;
  readonly blocks?: ProvisioningBlocks | undefined;
}
