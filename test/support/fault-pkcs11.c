// A PKCS#11 module over another one (FAULT_PKCS11_MODULE) that does as a control file (FAULT_PKCS11_CONTROL) says.
// Each line of the file: FUNCTION FROM COUNT ACTION [ARGUMENT]
//   from its FROM-th call since the file last changed, for COUNT calls (0: for ever), FUNCTION (or *: any) will
//   fail RV      return RV (a number) without reaching the real module
//   delay MS     take that much longer
//   hang         not return before the file changes
//   corrupt      sign, then flip one bit of the signature
//   empty        give no slots (C_GetSlotList)
//   locked       say CKF_USER_PIN_LOCKED (C_GetTokenInfo)
//   restart      first close every session of every slot, as an HSM does that starts anew
// Calls are counted in FAULT_PKCS11_CONTROL.calls: one 64-bit number a function, in the order of the list below; after
// them, as a usage counter of an HSM, the signatures that keys labelled "ca" have made.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CK_PTR *
#define CK_DEFINE_FUNCTION(returnType, name) returnType name
#define CK_DECLARE_FUNCTION(returnType, name) returnType name
#define CK_DECLARE_FUNCTION_POINTER(returnType, name) returnType(*name)
#define CK_CALLBACK_FUNCTION(returnType, name) returnType(*name)
#ifndef NULL_PTR
#define NULL_PTR 0
#endif
#include "pkcs11.h"

#define FUNCTIONS(X) X(C_Initialize) X(C_Finalize) X(C_GetSlotList) X(C_GetTokenInfo) X(C_OpenSession) \
  X(C_CloseSession) X(C_GetSessionInfo) X(C_Login) X(C_FindObjectsInit) X(C_FindObjects) X(C_GetAttributeValue) \
  X(C_SignInit) X(C_Sign) X(C_GenerateKeyPair)
#define AS_ENUM(name) I_##name,
#define AS_NAME(name) #name,
enum { FUNCTIONS(AS_ENUM) FUNCTION_COUNT };
static const char *const NAMES[] = {FUNCTIONS(AS_NAME)};

enum action { NONE, FAIL, DELAY, HANG, CORRUPT, EMPTY, LOCKED, RESTART };
static const char *const ACTIONS[] = {"", "fail", "delay", "hang", "corrupt", "empty", "locked", "restart"};
struct rule {
  int function; // -1: any
  long from, count;
  enum action action;
  unsigned long argument;
};

static CK_FUNCTION_LIST list;
static CK_FUNCTION_LIST_PTR real;
static _Atomic uint64_t *calls;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct rule rules[64];
static int rule_count;
static long since[FUNCTION_COUNT];
static struct stat seen;
static unsigned long version;
// SoftHSM frees a session under a call that uses it: a restart waits for calls that are in the real module.
static pthread_rwlock_t inside = PTHREAD_RWLOCK_INITIALIZER;
static atomic_int in_flight;

// By the low bits of a session's handle: does the key that it signs with have the label "ca"?
static atomic_uchar by_ca[1 << 16];
static void note_key(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key) {
  char label[64];
  CK_ATTRIBUTE attribute = {CKA_LABEL, label, sizeof label};
  CK_RV rv = real->C_GetAttributeValue(session, key, &attribute, 1);
  by_ca[session & 0xffff] = rv == CKR_OK && attribute.ulValueLen == 2 && !memcmp(label, "ca", 2);
}

static void parse(const char *path) {
  FILE *file = fopen(path, "r");
  rule_count = 0;
  if (!file) return;
  char line[256], function[64], action[32], argument[64];
  while (rule_count < 64 && fgets(line, sizeof line, file)) {
    struct rule r = {-1, 1, 0, NONE, 0};
    argument[0] = 0;
    if (sscanf(line, "%63s %ld %ld %31s %63s", function, &r.from, &r.count, action, argument) < 4) continue;
    for (int i = 0; i < FUNCTION_COUNT; i++)
      if (!strcmp(function, NAMES[i])) r.function = i;
    for (int i = FAIL; i <= RESTART; i++)
      if (!strcmp(action, ACTIONS[i])) r.action = i;
    r.argument = strtoul(argument, NULL, 0);
    if (r.action == NONE || (r.function < 0 && strcmp(function, "*"))) abort();
    rules[rule_count++] = r;
  }
  fclose(file);
}

// With the lock held.
static void refresh(void) {
  const char *path = getenv("FAULT_PKCS11_CONTROL");
  struct stat now;
  if (!path || stat(path, &now)) memset(&now, 0, sizeof now);
  if (now.st_ino == seen.st_ino && now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec &&
      now.st_mtim.tv_sec == seen.st_mtim.tv_sec && now.st_size == seen.st_size)
    return;
  seen = now;
  version++;
  memset(since, 0, sizeof since);
  if (path) parse(path);
}

static void wait_ms(unsigned long ms) {
  struct timespec t = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000L};
  nanosleep(&t, NULL);
}

static void close_all(void) {
  CK_SLOT_ID slots[64];
  CK_ULONG count = 64;
  if (real->C_GetSlotList(CK_TRUE, slots, &count) != CKR_OK) return;
  for (CK_ULONG i = 0; i < count; i++) real->C_CloseAllSessions(slots[i]);
}

// What is to happen with this call. Delays, hangs and restarts are over when it returns.
static struct rule decide(int function) {
  struct rule chosen = {function, 0, 0, NONE, 0};
  pthread_mutex_lock(&lock);
  refresh();
  if (calls) calls[function]++;
  long call = ++since[function];
  for (int i = 0; i < rule_count; i++) {
    struct rule r = rules[i];
    if ((r.function == function || r.function < 0) && call >= r.from && (r.count == 0 || call < r.from + r.count)) {
      chosen = r;
      break;
    }
  }
  unsigned long entered = version;
  pthread_mutex_unlock(&lock);
  if (chosen.action == DELAY) wait_ms(chosen.argument);
  if (chosen.action == RESTART) {
    pthread_rwlock_wrlock(&inside);
    close_all();
    pthread_rwlock_unlock(&inside);
  }
  while (chosen.action == HANG) {
    wait_ms(5);
    pthread_mutex_lock(&lock);
    refresh();
    int over = version != entered;
    pthread_mutex_unlock(&lock);
    if (over) break;
  }
  return chosen;
}

#define WRAPPED(name, call, after) \
  in_flight++; \
  struct rule rule = decide(I_##name); \
  CK_RV rv = (CK_RV)rule.argument; \
  if (rule.action != FAIL) { \
    pthread_rwlock_rdlock(&inside); \
    rv = real->name call; \
    after; \
    pthread_rwlock_unlock(&inside); \
  } \
  in_flight--; \
  return rv

static CK_RV initialize(CK_VOID_PTR args) { WRAPPED(C_Initialize, (args), ); }
static CK_RV finalize(CK_VOID_PTR reserved) {
  // PKCS#11 leaves it undefined; with a real module it is a crash.
  if (in_flight > 0) {
    fprintf(stderr, "fault-pkcs11: C_Finalize while %d calls are under way\n", in_flight);
    abort();
  }
  WRAPPED(C_Finalize, (reserved), );
}
static CK_RV get_slot_list(CK_BBOOL present, CK_SLOT_ID_PTR slots, CK_ULONG_PTR count) {
  WRAPPED(C_GetSlotList, (present, slots, count), if (rule.action == EMPTY) *count = 0);
}
static CK_RV get_token_info(CK_SLOT_ID slot, CK_TOKEN_INFO_PTR info) {
  WRAPPED(C_GetTokenInfo, (slot, info), if (rv == CKR_OK && rule.action == LOCKED) info->flags |= CKF_USER_PIN_LOCKED);
}
static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, CK_VOID_PTR app, CK_NOTIFY notify,
                          CK_SESSION_HANDLE_PTR session) {
  WRAPPED(C_OpenSession, (slot, flags, app, notify, session), );
}
static CK_RV close_session(CK_SESSION_HANDLE session) { WRAPPED(C_CloseSession, (session), ); }
static CK_RV get_session_info(CK_SESSION_HANDLE session, CK_SESSION_INFO_PTR info) {
  WRAPPED(C_GetSessionInfo, (session, info), );
}
static CK_RV login(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_UTF8CHAR_PTR pin, CK_ULONG length) {
  WRAPPED(C_Login, (session, user, pin, length), );
}
static CK_RV find_objects_init(CK_SESSION_HANDLE session, CK_ATTRIBUTE_PTR template, CK_ULONG count) {
  WRAPPED(C_FindObjectsInit, (session, template, count), );
}
static CK_RV find_objects(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE_PTR objects, CK_ULONG max, CK_ULONG_PTR count) {
  WRAPPED(C_FindObjects, (session, objects, max, count), );
}
static CK_RV get_attribute_value(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_PTR template,
                                 CK_ULONG count) {
  WRAPPED(C_GetAttributeValue, (session, object, template, count), );
}
static CK_RV sign_init(CK_SESSION_HANDLE session, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE key) {
  WRAPPED(C_SignInit, (session, mechanism, key), if (rv == CKR_OK) note_key(session, key));
}
static CK_RV sign(CK_SESSION_HANDLE session, CK_BYTE_PTR data, CK_ULONG length, CK_BYTE_PTR signature,
                  CK_ULONG_PTR size) {
  WRAPPED(C_Sign, (session, data, length, signature, size),
          if (rv == CKR_OK && signature) {
            if (calls && by_ca[session & 0xffff]) calls[FUNCTION_COUNT]++;
            if (rule.action == CORRUPT && *size > 0) signature[*size / 2] ^= 1;
          });
}
static CK_RV generate_key_pair(CK_SESSION_HANDLE session, CK_MECHANISM_PTR mechanism, CK_ATTRIBUTE_PTR public,
                               CK_ULONG public_count, CK_ATTRIBUTE_PTR private, CK_ULONG private_count,
                               CK_OBJECT_HANDLE_PTR public_key, CK_OBJECT_HANDLE_PTR private_key) {
  WRAPPED(C_GenerateKeyPair,
          (session, mechanism, public, public_count, private, private_count, public_key, private_key), );
}

static void map_calls(void) {
  const char *control = getenv("FAULT_PKCS11_CONTROL");
  char path[4096];
  if (!control || snprintf(path, sizeof path, "%s.calls", control) >= (int)sizeof path) return;
  int file = open(path, O_RDWR | O_CREAT, 0600);
  if (file < 0) return;
  size_t size = (FUNCTION_COUNT + 1) * sizeof(uint64_t);
  if (ftruncate(file, (off_t)size) == 0) {
    void *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) calls = mapped;
  }
  close(file);
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR out) {
  pthread_mutex_lock(&lock);
  if (!real) {
    const char *path = getenv("FAULT_PKCS11_MODULE");
    void *module = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    CK_RV (*get)(CK_FUNCTION_LIST_PTR_PTR) = module ? dlsym(module, "C_GetFunctionList") : NULL;
    if (!get || get(&real) != CKR_OK) {
      fprintf(stderr, "fault-pkcs11: FAULT_PKCS11_MODULE (%s) can't be loaded\n", path ? path : "not set");
      pthread_mutex_unlock(&lock);
      return CKR_GENERAL_ERROR;
    }
    map_calls();
    list = *real;
    list.C_GetFunctionList = C_GetFunctionList;
    list.C_Initialize = initialize;
    list.C_Finalize = finalize;
    list.C_GetSlotList = get_slot_list;
    list.C_GetTokenInfo = get_token_info;
    list.C_OpenSession = open_session;
    list.C_CloseSession = close_session;
    list.C_GetSessionInfo = get_session_info;
    list.C_Login = login;
    list.C_FindObjectsInit = find_objects_init;
    list.C_FindObjects = find_objects;
    list.C_GetAttributeValue = get_attribute_value;
    list.C_SignInit = sign_init;
    list.C_Sign = sign;
    list.C_GenerateKeyPair = generate_key_pair;
  }
  pthread_mutex_unlock(&lock);
  *out = &list;
  return CKR_OK;
}
