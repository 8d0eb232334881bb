/* A CUDA driver without a GPU, for tests of what goes on around one: memory is the host's, launches do nothing, every other call succeeds.
   Only the counters of steps go on with each `end_step`, or no run would ever end; its numbers mean nothing.

   While the file that NULL_DRIVER_FAULT names exists, whatever waits for the GPU fails as after an illegal access. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OK 0
#define INVALID 1
#define ILLEGAL_ACCESS 700
#define EXPORTED __attribute__((visibility("default")))

typedef int Status;
typedef uint64_t Address;

static uint64_t next_handle = 0x1000;
static __thread void *current;

static void *handle(void) { return (void *)(uintptr_t)(__sync_add_and_fetch(&next_handle, 0x10)); }

static Status health(void) {
    const char *path = getenv("NULL_DRIVER_FAULT");
    return path && access(path, F_OK) == 0 ? ILLEGAL_ACCESS : OK;
}

static Status anything(void) { return OK; }

EXPORTED Status cuInit(unsigned flags) { (void)flags; return OK; }
EXPORTED Status cuDriverGetVersion(int *version) { *version = 13000; return OK; }

/* ------------------------------------------------------------ devices and contexts */

EXPORTED Status cuDeviceGetCount(int *count) {
    const char *shown = getenv("CUDA_VISIBLE_DEVICES");
    *count = !(shown && !*shown);
    return OK;
}
EXPORTED Status cuDeviceGet(int *device, int ordinal) { *device = ordinal; return OK; }
EXPORTED Status cuDeviceGetName(char *name, int size, int device) { (void)device; strncpy(name, "null", size); return OK; }
EXPORTED Status cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = (size_t)1 << 30; return OK; }
EXPORTED Status cuDeviceGetAttribute(int *value, int which, int device) {
    (void)device;
    *value = which == 75 ? 9 : which == 76 ? 0 : which == 16 ? 4 : 1;      /* compute capability 9.0, 4 multiprocessors */
    return OK;
}
EXPORTED Status cuDevicePrimaryCtxRetain(void **context, int device) { (void)device; *context = (void *)0x10; return OK; }
EXPORTED Status cuCtxGetCurrent(void **context) { *context = current; return OK; }
EXPORTED Status cuCtxSetCurrent(void *context) { current = context; return OK; }
EXPORTED Status cuCtxPushCurrent_v2(void *context) { current = context; return OK; }
EXPORTED Status cuCtxPopCurrent_v2(void **context) { if (context) *context = current; current = 0; return OK; }
EXPORTED Status cuCtxGetDevice(int *device) { *device = 0; return OK; }
EXPORTED Status cuCtxGetId(void *context, uint64_t *id) { (void)context; *id = 1; return OK; }
EXPORTED Status cuCtxGetStreamPriorityRange(int *least, int *greatest) { if (least) *least = 0; if (greatest) *greatest = -5; return OK; }

/* ------------------------------------------------------------ memory */

EXPORTED Status cuMemGetInfo_v2(size_t *unused, size_t *all) { *unused = *all = (size_t)1 << 30; return OK; }
EXPORTED Status cuMemAlloc_v2(Address *made, size_t size) { *made = (Address)(uintptr_t)aligned_alloc(256, (size + 255) / 256 * 256); return OK; }
EXPORTED Status cuMemFree_v2(Address made) { free((void *)(uintptr_t)made); return OK; }
EXPORTED Status cuMemAllocAsync(Address *made, size_t size, void *stream) { (void)stream; return cuMemAlloc_v2(made, size); }
EXPORTED Status cuMemFreeAsync(Address made, void *stream) { (void)stream; return cuMemFree_v2(made); }
EXPORTED Status cuMemHostAlloc(void **made, size_t size, unsigned flags) { (void)flags; *made = calloc(1, size); return OK; }
EXPORTED Status cuMemFreeHost(void *made) { free(made); return OK; }
EXPORTED Status cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t size, void *stream) {
    (void)stream;
    memcpy((void *)(uintptr_t)to, from, size);
    return health();
}
EXPORTED Status cuMemcpyDtoHAsync_v2(void *to, Address from, size_t size, void *stream) {
    (void)stream;
    memcpy(to, (void *)(uintptr_t)from, size);
    return health();
}
EXPORTED Status cuMemcpyDtoDAsync_v2(Address to, Address from, size_t size, void *stream) {
    (void)stream;
    memmove((void *)(uintptr_t)to, (void *)(uintptr_t)from, size);
    return health();
}
EXPORTED Status cuMemcpyAsync(Address to, Address from, size_t size, void *stream) { return cuMemcpyDtoDAsync_v2(to, from, size, stream); }
EXPORTED Status cuMemsetD8Async(Address to, unsigned char value, size_t size, void *stream) {
    (void)stream;
    memset((void *)(uintptr_t)to, value, size);
    return health();
}

/* ------------------------------------------------------------ streams, kernels, graphs */

#define STEP 8              /* in the arena's control block: engine/plan/control.py */
#define POSITION 24
#define MOST_STEPS 4096

typedef struct { char *arena; int64_t *words; } Ending;         /* of a step; the third word is 1 in training */
typedef struct { int count; Ending steps[MOST_STEPS]; } Graph;
static Graph *capturing;

EXPORTED Status cuStreamCreateWithPriority(void **made, unsigned flags, int priority) { (void)flags; (void)priority; *made = handle(); return OK; }
EXPORTED Status cuStreamCreate(void **made, unsigned flags) { (void)flags; *made = handle(); return OK; }
EXPORTED Status cuStreamSynchronize(void *stream) { (void)stream; return health(); }
EXPORTED Status cuStreamQuery(void *stream) { (void)stream; return health(); }
EXPORTED Status cuStreamGetCtx(void *stream, void **context) { (void)stream; *context = current; return OK; }
EXPORTED Status cuStreamGetDevice(void *stream, int *device) { (void)stream; *device = 0; return OK; }

static void end_step(Ending one) {
    *(int64_t *)(one.arena + POSITION) += 1;
    *(int64_t *)(one.arena + STEP) += one.words[2];
}

EXPORTED Status cuStreamBeginCapture_v2(void *stream, int mode) {
    (void)stream; (void)mode;
    capturing = calloc(1, sizeof(Graph));
    return OK;
}
EXPORTED Status cuStreamIsCapturing(void *stream, int *status) { (void)stream; *status = capturing != 0; return OK; }
EXPORTED Status cuStreamGetCaptureInfo_v2(void *stream, int *status, uint64_t *id, void **graph, const void ***needs, size_t *count) {
    (void)stream;
    *status = capturing != 0;
    if (id) *id = 1;
    if (graph) *graph = capturing;
    if (needs) *needs = 0;
    if (count) *count = 0;
    return OK;
}
EXPORTED Status cuStreamGetCaptureInfo_v3(void *stream, int *status, uint64_t *id, void **graph, const void ***needs, const void **edges, size_t *count) {
    if (edges) *edges = 0;
    return cuStreamGetCaptureInfo_v2(stream, status, id, graph, needs, count);
}
EXPORTED Status cuStreamEndCapture(void *stream, void **graph) { (void)stream; *graph = capturing; capturing = 0; return OK; }
EXPORTED Status cuGraphCreate(Graph **graph, unsigned flags) { (void)flags; *graph = calloc(1, sizeof(Graph)); return OK; }
EXPORTED Status cuStreamBeginCaptureToGraph(void *stream, Graph *graph) { (void)stream; capturing = graph; return OK; }
EXPORTED Status cuGraphInstantiateWithParams(void **made, void *graph, void *how) {
    *made = graph;
    if (how) *(int *)((char *)how + 24) = 0;        /* result_out: success */
    return OK;
}
EXPORTED Status cuGraphInstantiateWithFlags(void **made, void *graph, uint64_t flags) { (void)flags; *made = graph; return OK; }
EXPORTED Status cuGraphInstantiate(void **made, void *graph, uint64_t flags) { return cuGraphInstantiateWithFlags(made, graph, flags); }
EXPORTED Status cuGraphLaunch(Graph *graph, void *stream) {
    (void)stream;
    for (int i = 0; graph && i < graph->count; i++) end_step(graph->steps[i]);
    return health();
}
static void *ending[64];
static int endings;
EXPORTED Status cuLaunchKernelEx(const void *how, void *kernel, void **arguments, void **more) {
    (void)how; (void)more;
    for (int i = 0; i < endings; i++) {
        if (ending[i] != kernel) continue;
        Ending one = {*(char **)arguments[0], *(int64_t **)arguments[1]};
        if (!capturing) end_step(one);
        else if (capturing->count < MOST_STEPS) capturing->steps[capturing->count++] = one;
    }
    return health();
}
EXPORTED Status cuLaunchKernel(void *kernel) { (void)kernel; return health(); }
EXPORTED Status cuLibraryLoadData(void **made) { *made = handle(); return OK; }
EXPORTED Status cuLibraryGetKernel(void **made, void *library, const char *name) {
    (void)library;
    *made = handle();
    if (strstr(name, "gpu_end_step") && endings < 64) ending[endings++] = *made;
    return OK;
}
EXPORTED Status cuKernelGetFunction(void **made) { *made = handle(); return OK; }
EXPORTED Status cuModuleLoadData(void **made) { *made = handle(); return OK; }
EXPORTED Status cuModuleGetFunction(void **made) { *made = handle(); return OK; }
EXPORTED Status cuEventCreate(void **made, unsigned flags) { (void)flags; *made = handle(); return OK; }
EXPORTED Status cuEventSynchronize(void *event) { (void)event; return health(); }

static const char *WORDS = "an error that the null driver was told to have";
EXPORTED Status cuGetErrorString(Status status, const char **text) { (void)status; *text = WORDS; return OK; }
EXPORTED Status cuGetErrorName(Status status, const char **text) { *text = status == ILLEGAL_ACCESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR"; return OK; }

/* ------------------------------------------------------------ how all of these are found */

#define _GNU_SOURCE_DLSYM
extern void *dlsym(void *, const char *);
extern void *dlopen(const char *, int);

EXPORTED Status cuGetProcAddress_v2(const char *name, void **found, int version, uint64_t flags, int *status) {
    (void)version; (void)flags;
    static const char *versions[] = {"_v3", "_v2", ""};
    char full[200];
    static void *self;
    if (!self) self = dlopen("libcuda.so.1", 2);
    *found = 0;
    for (int i = version >= 12030 ? 0 : 1; i < 3 && !*found; i++) {
        strncpy(full, name, 190);
        full[190] = 0;
        strcat(full, versions[i]);
        *found = dlsym(self, full);
    }
    if (!*found) *found = (void *)anything;
    if (status) *status = 0;
    return OK;
}
EXPORTED Status cuGetProcAddress(const char *name, void **found, int version, uint64_t flags) { return cuGetProcAddress_v2(name, found, version, flags, 0); }
