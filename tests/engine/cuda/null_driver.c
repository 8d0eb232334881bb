/* A driver of a GPU that does nothing: every call succeeds, memory is malloc's, copies are memcpy's, launches are only counted.
   It shows that the host's side of the CUDA device goes through: context, memory, modules, launches, capture, graphs. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int R;
typedef uintptr_t P;
static long launches, graphs, captured, live, arguments[6];
static int capturing;
static P one(P *out) { static P next = 0x1000; next += 0x100; return *out = next; }

/* 0 launches made, 1 graphs launched, 2 launches captured, 3 pieces of memory in use, 4 to 9 what the last launch was given */
long null_count(int which) { long counts[] = {launches, graphs, captured, live}; return which < 4 ? counts[which] : arguments[which - 4]; }

R cuInit(unsigned f) { return 0; }
R cuDriverGetVersion(int *v) { *v = getenv("NULL_DRIVER") ? atoi(getenv("NULL_DRIVER")) : 13000; return 0; }
R cuDeviceGetCount(int *n) { *n = getenv("NULL_GPUS") ? atoi(getenv("NULL_GPUS")) : 1; return 0; }
R cuDeviceGet(int *d, int i) { *d = i; return 0; }
R cuDeviceGetName(char *s, int n, int d) { strncpy(s, "Null GPU", n); return 0; }
R cuDeviceTotalMem_v2(size_t *n, int d) { *n = (size_t)80 << 30; return 0; }
R cuDeviceGetUuid_v2(char *u, int d) { memset(u, 7, 16); return 0; }
R cuDeviceGetAttribute(int *v, int a, int d) {
    int capability = getenv("NULL_CAPABILITY") ? atoi(getenv("NULL_CAPABILITY")) : 90;
    *v = a == 75 ? capability / 10 : a == 76 ? capability % 10 : a == 16 ? 132 : a == 10 ? 32 : 1;
    return 0;
}
static P context;
R cuDevicePrimaryCtxRetain(P *c, int d) { *c = 0xC0; return 0; }
R cuCtxGetCurrent(P *c) { *c = context; return 0; }
R cuCtxSetCurrent(P c) { context = c; return 0; }
R cuCtxPushCurrent_v2(P c) { context = c; return 0; }
R cuCtxPopCurrent_v2(P *c) { *c = context; return 0; }
R cuCtxGetDevice(int *d) { *d = 0; return 0; }
R cuStreamGetCtx(P s, P *c) { *c = 0xC0; return 0; }
R cuStreamGetCtx_v2(P s, P *c, P *g) { *c = 0xC0; if (g) *g = 0; return 0; }
R cuCtxGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return 0; }
R cuStreamCreateWithPriority(P *s, unsigned f, int p) { one(s); return 0; }
R cuStreamCreate(P *s, unsigned f) { one(s); return 0; }
R cuEventCreate(P *e, unsigned f) { one(e); return 0; }

R cuMemAlloc_v2(P *p, size_t n) { *p = (P)aligned_alloc(256, (n + 255) / 256 * 256); live++; return *p ? 0 : 2; }
R cuMemFree_v2(P p) { free((void *)p); live--; return 0; }
R cuMemHostAlloc(P *p, size_t n, unsigned f) { *p = (P)calloc(n, 1); live++; return 0; }
R cuMemFreeHost(P p) { free((void *)p); live--; return 0; }
R cuMemGetInfo_v2(size_t *unused, size_t *all) { *all = (size_t)80 << 30; *unused = (size_t)70 << 30; return 0; }
R cuMemcpyHtoDAsync_v2(P to, const void *from, size_t n, P s) { memcpy((void *)to, from, n); return 0; }
R cuMemcpyDtoHAsync_v2(void *to, P from, size_t n, P s) { memcpy(to, (void *)from, n); return 0; }

R cuLibraryLoadData(P *l, const void *code, void *a, void *b, unsigned c, void *d, void *e, unsigned f) {
    if (memcmp(code, "\177ELF", 4)) return 200;      /* not a cubin */
    one(l);
    return 0;
}
R cuLibraryGetKernel(P *k, P l, const char *name) { one(k); return 0; }
R cuKernelGetFunction(P *f, P k) { *f = k; return 0; }
R cuKernelGetParamInfo(P k, size_t i, size_t *at, size_t *size) { if (i > 5) return 1; *at = 8 * i; *size = 8; return 0; }
R cuFuncGetParamInfo(P k, size_t i, size_t *at, size_t *size) { return cuKernelGetParamInfo(k, i, at, size); }
R cuFuncGetAttribute(int *v, int a, P f) { *v = 256; return 0; }
R cuKernelGetAttribute(int *v, int a, P k, int d) { *v = 256; return 0; }
static R launched(void **args) {
    if (capturing) captured++; else launches++;
    for (int i = 0; i < 6; i++) arguments[i] = *(long *)args[i];
    return 0;
}
R cuLaunchKernelEx(const void *config, P f, void **args, void **extra) { return launched(args); }
R cuLaunchKernel(P f, unsigned gx, unsigned gy, unsigned gz, unsigned x, unsigned y, unsigned z, unsigned m, P s, void **args, void **extra) {
    return launched(args);
}
R cuStreamBeginCapture_v2(P s, int mode) { capturing = 1; return 0; }
R cuStreamEndCapture(P s, P *g) { capturing = 0; one(g); return 0; }
R cuStreamIsCapturing(P s, int *is) { *is = capturing; return 0; }
R cuStreamGetCaptureInfo_v3(P s, int *is, uint64_t *id, P *g, P *d, P *e, size_t *n) {
    *is = capturing;
    if (id) *id = 1;
    if (g) *g = 0x60;
    if (n) *n = 0;
    return 0;
}
R cuGraphInstantiateWithParams(P *e, P g, void *params) { one(e); if (params) memset((char *)params + 24, 0, 4); return 0; }
R cuGraphInstantiateWithFlags(P *e, P g, unsigned long long f) { one(e); return 0; }
R cuGraphLaunch(P e, P s) { graphs++; return 0; }
R cuGetErrorName(int e, const char **s) { *s = "CUDA_ERROR_OF_THE_NULL_DRIVER"; return 0; }
R cuGetErrorString(int e, const char **s) { *s = "an error of the null driver"; return 0; }
static R fine(void) { return 0; }

R cuGetProcAddress_v2(const char *name, void **f, int version, uint64_t flags, int *status) {
    static void *self;
    char newest[128];
    if (!self) self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    *f = NULL;
    for (int v = 3; v > 0 && !*f; v--) {
        snprintf(newest, sizeof newest, v > 1 ? "%s_v%d" : "%s", name, v);
        *f = dlsym(self, newest);
    }
    if (!strcmp(name, "cuGetProcAddress")) *f = (void *)cuGetProcAddress_v2;
    if (!*f) *f = (void *)fine;
    if (status) *status = 0;
    return 0;
}
R cuGetProcAddress(const char *name, void **f, int version, uint64_t flags) { return cuGetProcAddress_v2(name, f, version, flags, NULL); }
