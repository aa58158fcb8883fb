/** Object identifiers, under the names of the documents that define them. */
export const OID = {
  // RFC 5480, RFC 8410, RFC 3279
  ecPublicKey: "1.2.840.10045.2.1",
  prime256v1: "1.2.840.10045.3.1.7",
  secp384r1: "1.3.132.0.34",
  ed25519: "1.3.101.112",
  rsaEncryption: "1.2.840.113549.1.1.1",
  // RFC 5758, RFC 4055
  ecdsaWithSha256: "1.2.840.10045.4.3.2",
  ecdsaWithSha384: "1.2.840.10045.4.3.3",
  ecdsaWithSha512: "1.2.840.10045.4.3.4",
  sha256WithRsaEncryption: "1.2.840.113549.1.1.11",
  sha384WithRsaEncryption: "1.2.840.113549.1.1.12",
  sha512WithRsaEncryption: "1.2.840.113549.1.1.13",
  // RFC 4519 attribute types
  commonName: "2.5.4.3",
  serialNumber: "2.5.4.5",
  countryName: "2.5.4.6",
  organizationName: "2.5.4.10",
  organizationalUnitName: "2.5.4.11",
  emailAddress: "1.2.840.113549.1.9.1",
  domainComponent: "0.9.2342.19200300.100.1.25",
  // RFC 2985 CSR attributes
  challengePassword: "1.2.840.113549.1.9.7",
  extensionRequest: "1.2.840.113549.1.9.14",
  // draft-ietf-lamps-csr-attestation; registered early as id-aa-evidence
  attestation: "1.2.840.113549.1.9.16.2.59",
  // RFC 5280 extensions
  subjectKeyIdentifier: "2.5.29.14",
  keyUsage: "2.5.29.15",
  subjectAltName: "2.5.29.17",
  issuerAltName: "2.5.29.18",
  basicConstraints: "2.5.29.19",
  cRLNumber: "2.5.29.20",
  reasonCode: "2.5.29.21",
  invalidityDate: "2.5.29.24",
  deltaCRLIndicator: "2.5.29.27",
  issuingDistributionPoint: "2.5.29.28",
  certificateIssuer: "2.5.29.29",
  nameConstraints: "2.5.29.30",
  cRLDistributionPoints: "2.5.29.31",
  certificatePolicies: "2.5.29.32",
  policyMappings: "2.5.29.33",
  authorityKeyIdentifier: "2.5.29.35",
  policyConstraints: "2.5.29.36",
  extKeyUsage: "2.5.29.37",
  freshestCRL: "2.5.29.46",
  authorityInfoAccess: "1.3.6.1.5.5.7.1.1",
  subjectInfoAccess: "1.3.6.1.5.5.7.1.11",
  inhibitAnyPolicy: "2.5.29.54",
  // RFC 6960 section 4.2.2.2.1
  ocspNoCheck: "1.3.6.1.5.5.7.48.1.5",
  // RFC 4108 section 5
  hardwareModuleName: "1.3.6.1.5.5.7.8.4",
  // RFC 9598 section 3
  smtpUtf8Mailbox: "1.3.6.1.5.5.7.8.9",
  // RFC 5280 section 4.2.1.12 key purposes
  serverAuth: "1.3.6.1.5.5.7.3.1",
  clientAuth: "1.3.6.1.5.5.7.3.2",
  ocspSigning: "1.3.6.1.5.5.7.3.9",
  anyExtendedKeyUsage: "2.5.29.37.0",
  qualifierCps: "1.3.6.1.5.5.7.2.1",
  qualifierUserNotice: "1.3.6.1.5.5.7.2.2",
} as const;

/**
 * Key purpose of a hub's proof-of-possession certificate. Ours (X.667: a UUID needs no registration), so that such a
 * certificate, which the device root signs, is good for nothing else and can't log in as a device.
 */
export const OID_HUB_VERIFICATION = "2.25.14614524426503415251653200508676202878";
