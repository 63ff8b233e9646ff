/* Stands in for NVIDIA's driver: device memory is host memory, and what is left over counts as live.
 *
 * Environment: STAND_IN_INIT is what cuInit returns, STAND_IN_GPUS the number of devices, STAND_IN_MEMORY their bytes.
 */
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  INVALID_DEVICE = 101,
  INVALID_CONTEXT = 201,
  INVALID_HANDLE = 400,
  NOT_FOUND = 500
};

static void *const stream = (void *)0x1234;
static const size_t HOST_MEMORY = 1 << 30;
static int context, live;
static size_t used;
static const void *pinned;
static _Thread_local int depth;
static _Thread_local void *stack[16];

static long setting(const char *name, long otherwise) { return getenv(name) ? atol(getenv(name)) : otherwise; }

int stand_in_live(void) { return live + depth; }

int cuInit(unsigned flags) { return (int)setting("STAND_IN_INIT", SUCCESS); }
int cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
int cuDeviceGetCount(int *count) { *count = (int)setting("STAND_IN_GPUS", 1); return SUCCESS; }
int cuDeviceGet(int *device, int index) { *device = index; return index == 0 ? SUCCESS : INVALID_DEVICE; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "stand-in", size); return SUCCESS; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 8 : 9; return SUCCESS; }

int cuDevicePrimaryCtxRetain(void **result, int device) { *result = &context; live++; return SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int device) { live--; return SUCCESS; }
int cuCtxPushCurrent_v2(void *pushed) { stack[depth++] = pushed; return SUCCESS; }
int cuCtxPopCurrent_v2(void **popped) {
  if (depth == 0) return INVALID_CONTEXT;
  *popped = stack[--depth];
  return SUCCESS;
}
int cuCtxGetCurrent(void **current) {
  *current = depth > 0 ? stack[depth - 1] : NULL;
  return SUCCESS;
}

static int in_context(void) { return depth > 0 && stack[depth - 1] == &context; }
static size_t memory(void) { return (size_t)setting("STAND_IN_MEMORY", 1 << 30); }
static int allocate(void **result, size_t size, size_t most) {
  if (!in_context()) return INVALID_CONTEXT;
  if (size > most) return OUT_OF_MEMORY;
  *result = malloc(size);
  live++;
  return SUCCESS;
}
static int release(void *memory) {
  if (!in_context()) return INVALID_CONTEXT;
  free(memory);
  live--;
  return SUCCESS;
}
static int copy(void *target, const void *source, size_t size, void *on) {
  if (!in_context()) return INVALID_CONTEXT;
  if (on != stream) return INVALID_HANDLE;
  memcpy(target, source, size);
  return SUCCESS;
}

int cuMemAlloc_v2(uintptr_t *address, size_t size) {
  int status = allocate((void **)address, size, memory() - used);
  if (status == SUCCESS) used += malloc_usable_size((void *)*address);
  return status;
}
int cuMemFree_v2(uintptr_t address) {
  used -= malloc_usable_size((void *)address);
  return release((void *)address);
}
int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
  *total = memory();
  *free_bytes = memory() - used;
  return in_context() ? SUCCESS : INVALID_CONTEXT;
}
int cuMemHostAlloc(void **address, size_t size, unsigned flags) {
  int status = allocate(address, size, HOST_MEMORY);
  pinned = *address;
  return status;
}
int cuMemHostGetFlags(unsigned *flags, const void *address) {
  *flags = 0;
  return address == pinned ? SUCCESS : INVALID_VALUE;
}
int cuMemFreeHost(void *address) { return release(address); }
int cuMemcpyHtoDAsync_v2(uintptr_t target, const void *source, size_t size, void *on) {
  return copy((void *)target, source, size, on);
}
int cuMemcpyDtoHAsync_v2(void *target, uintptr_t source, size_t size, void *on) {
  return copy(target, (void *)source, size, on);
}

int cuStreamCreate(void **result, unsigned flags) {
  *result = stream;
  live++;
  return flags == 1 ? SUCCESS : INVALID_HANDLE; /* not the one that waits for the default stream */
}
int cuStreamSynchronize(void *waited) { return waited == stream ? SUCCESS : INVALID_HANDLE; }
int cuStreamDestroy_v2(void *destroyed) {
  live--;
  return destroyed == stream && in_context() ? SUCCESS : INVALID_HANDLE;
}

int cuGetErrorString(int status, const char **text) {
  *text = status == OUT_OF_MEMORY ? "out of memory" : "another error";
  return SUCCESS;
}

/* cuda-python finds every function through this one, by its name without the suffix. */
int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *found) {
  static const struct { const char *name; void *function; } functions[] = {
      {"cuGetProcAddress", cuGetProcAddress_v2},
      {"cuInit", cuInit},
      {"cuDriverGetVersion", cuDriverGetVersion},
      {"cuDeviceGet", cuDeviceGet},
      {"cuDevicePrimaryCtxRetain", cuDevicePrimaryCtxRetain},
      {"cuDevicePrimaryCtxRelease", cuDevicePrimaryCtxRelease_v2},
      {"cuCtxPushCurrent", cuCtxPushCurrent_v2},
      {"cuCtxPopCurrent", cuCtxPopCurrent_v2},
      {"cuMemAlloc", cuMemAlloc_v2},
      {"cuMemFree", cuMemFree_v2},
      {"cuMemHostAlloc", cuMemHostAlloc},
      {"cuMemFreeHost", cuMemFreeHost},
      {"cuMemcpyHtoDAsync", cuMemcpyHtoDAsync_v2},
      {"cuMemcpyDtoHAsync", cuMemcpyDtoHAsync_v2},
      {"cuStreamCreate", cuStreamCreate},
      {"cuStreamSynchronize", cuStreamSynchronize},
      {"cuStreamDestroy", cuStreamDestroy_v2},
      {"cuGetErrorString", cuGetErrorString},
  };
  *function = NULL;
  for (size_t index = 0; index < sizeof functions / sizeof functions[0]; index++)
    if (strcmp(functions[index].name, name) == 0) *function = functions[index].function;
  if (found) *found = *function ? 0 : 1;
  return *function ? SUCCESS : NOT_FOUND;
}
