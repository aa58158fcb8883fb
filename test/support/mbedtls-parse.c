/*
 * What a device with mbedTLS makes of the bytes in its provisioning region: parses standard input with one call, as
 * firmware does with a region it maps (DER, one behind the other, with one call each, since a call stops behind the
 * first), prints each certificate's DER in hex, leaf first, and with a root's DER file as argument verifies the chain to
 * it. Exit 0: parsed and (if asked) verified.
 */
#include <mbedtls/x509_crt.h>
#include <stdint.h>
#include <stdio.h>

static unsigned char input[1 << 16];

int main(int argc, char **argv) {
  size_t length = fread(input, 1, sizeof input, stdin);
  mbedtls_x509_crt chain;
  mbedtls_x509_crt_init(&chain);
  int failed = 0;
  if (length > 0 && input[0] == 0x30) {
    mbedtls_x509_crt *last = &chain;
    for (size_t at = 0; failed == 0 && at < length; at += last->raw.len) {
      failed = mbedtls_x509_crt_parse_der(&chain, input + at, length - at);
      while (last->next != NULL) last = last->next;
    }
  } else {
    failed = mbedtls_x509_crt_parse(&chain, input, length);
  }
  if (failed != 0) {
    fprintf(stderr, "mbedtls_x509_crt_parse: %d\n", failed);
    return 1;
  }
  for (const mbedtls_x509_crt *one = &chain; one != NULL && one->raw.p != NULL; one = one->next) {
    for (size_t i = 0; i < one->raw.len; i++) printf("%02x", one->raw.p[i]);
    printf("\n");
  }
  if (argc > 1) {
    mbedtls_x509_crt root;
    mbedtls_x509_crt_init(&root);
    uint32_t flags = 0;
    if (mbedtls_x509_crt_parse_file(&root, argv[1]) != 0) {
      fprintf(stderr, "the root can't be parsed\n");
      return 2;
    }
    failed = mbedtls_x509_crt_verify(&chain, &root, NULL, NULL, &flags, NULL, NULL);
    if (failed != 0) {
      fprintf(stderr, "mbedtls_x509_crt_verify: %d, flags 0x%x\n", failed, (unsigned)flags);
      return 3;
    }
  }
  return 0;
}
