/* A CUDA driver without a GPU, for tests of what goes on around one: memory is the host's, launches do nothing, every other call succeeds.
   Only the counters of steps go on with each `end_step`, or no run would ever end; its numbers mean nothing. CUDA_VISIBLE_DEVICES="" hides its GPU.

   NULL_DRIVER_FAULT        while the file of this name exists, whatever waits for the GPU fails as after an illegal access
   NULL_DRIVER_MEMORY       bytes of the GPU's memory (1 GiB): there is no room for more
   NULL_DRIVER_VERSION      of CUDA that the driver is for (13000)
   NULL_DRIVER_CAPABILITY   of the GPU to compute (90: 9.0)

   Who loads the driver into his own process may ask `null_count` what was done. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {OK = 0, OUT_OF_MEMORY = 2, INVALID_IMAGE = 200, ILLEGAL_ACCESS = 700};
typedef int Status;
typedef uintptr_t Address;

static void *made_one(void) { static Address last = 0x1000; return (void *)__sync_add_and_fetch(&last, 0x10); }
static Status anything(void) { return OK; }
static Status health(void) {
    const char *path = getenv("NULL_DRIVER_FAULT");
    return path && access(path, F_OK) == 0 ? ILLEGAL_ACCESS : OK;
}
static size_t told(const char *name, size_t otherwise) { return getenv(name) ? strtoull(getenv(name), 0, 10) : otherwise; }

/* 0 launches made, 1 graphs launched, 2 launches captured, 3 pieces of memory in use, 4 to 9 what the last launch was given,
   10 copies that were made because an event behind them was waited for, 11 times that a stream was waited for while copies went on in another */
static long counts[12];
enum {LAUNCHES, GRAPHS, CAPTURED, PIECES, ARGUMENTS, HEEDED = 10, BESIDE};
long null_count(int which) { return counts[which]; }

/* ------------------------------------------------------------ devices and contexts */

static __thread void *current;

Status cuInit(void) { return OK; }
Status cuDriverGetVersion(int *version) { *version = told("NULL_DRIVER_VERSION", 13000); return OK; }
Status cuDeviceGetCount(int *count) {
    const char *shown = getenv("CUDA_VISIBLE_DEVICES");
    *count = !(shown && !*shown);
    return OK;
}
Status cuDeviceGet(int *device, int ordinal) { *device = ordinal; return OK; }
Status cuDeviceGetName(char *name, int size) { strncpy(name, "null", size); return OK; }
Status cuDeviceTotalMem_v2(size_t *bytes) { *bytes = told("NULL_DRIVER_MEMORY", (size_t)1 << 30); return OK; }
Status cuDeviceGetAttribute(int *value, int which) {
    int capability = told("NULL_DRIVER_CAPABILITY", 90);
    *value = which == 75 ? capability / 10 : which == 76 ? capability % 10 : which == 16 ? 4 : which == 10 ? 32 : 1;    /* 16: multiprocessors, 10: lanes */
    return OK;
}
Status cuDevicePrimaryCtxRetain(void **context) { *context = (void *)0x10; return OK; }
Status cuCtxGetCurrent(void **context) { *context = current; return OK; }
Status cuCtxSetCurrent(void *context) { current = context; return OK; }
Status cuCtxPushCurrent_v2(void *context) { current = context; return OK; }
Status cuCtxPopCurrent_v2(void **context) { if (context) *context = current; current = 0; return OK; }
Status cuCtxGetDevice(int *device) { *device = 0; return OK; }
Status cuCtxGetId(void *context, uint64_t *id) { *id = 1; return OK; }
Status cuCtxGetStreamPriorityRange(int *least, int *greatest) { if (least) *least = 0; if (greatest) *greatest = -5; return OK; }

/* ------------------------------------------------------------ memory */

static size_t used;

Status cuMemGetInfo_v2(size_t *unused, size_t *all) {
    cuDeviceTotalMem_v2(all);
    *unused = *all > used ? *all - used : 0;
    return OK;
}
static Status taken(void **made, void *found) { *made = found; __sync_add_and_fetch(&counts[PIECES], 1); return OK; }
static Status given_back(void *piece) { free(piece); __sync_sub_and_fetch(&counts[PIECES], 1); return OK; }
Status cuMemAlloc_v2(void **made, size_t size) {
    size_t unused, all;
    cuMemGetInfo_v2(&unused, &all);
    if (size > unused) return OUT_OF_MEMORY;
    taken(made, aligned_alloc(256, (size + 255) / 256 * 256));
    __sync_add_and_fetch(&used, malloc_usable_size(*made));
    return OK;
}
Status cuMemFree_v2(void *piece) { __sync_sub_and_fetch(&used, malloc_usable_size(piece)); return given_back(piece); }
Status cuMemHostAlloc(void **made, size_t size) { return taken(made, calloc(1, size)); }
Status cuMemFreeHost(void *piece) { return given_back(piece); }

/* Copies to the GPU are made as late as they may be: when their stream is waited for, or an event that was recorded in it. */
#define MOST_COPIES 256
static struct {void *to; const void *from; size_t size; void *stream;} copies[MOST_COPIES];
static int under_way;
static void *recorded;      /* the stream of the last event */

static int make_copies(void *stream) {
    int left = 0, all = under_way;
    for (int i = 0; i < all; i++)
        if (copies[i].stream == stream) memmove(copies[i].to, copies[i].from, copies[i].size);
        else copies[left++] = copies[i];
    under_way = left;
    return all - left;
}
Status cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t size, void *stream) {
    if (under_way == MOST_COPIES) make_copies(stream);
    if (under_way == MOST_COPIES) return INVALID_IMAGE;
    copies[under_way].to = to, copies[under_way].from = from, copies[under_way].size = size, copies[under_way++].stream = stream;
    return health();
}
Status cuEventCreate(void **made) { *made = made_one(); return OK; }
Status cuEventRecord(void *event, void *stream) { recorded = stream; return OK; }
Status cuEventSynchronize(void) { counts[HEEDED] += make_copies(recorded); return health(); }
Status cuStreamWaitEvent(void) { counts[HEEDED] += make_copies(recorded); return OK; }
Status cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t size) { memmove(to, from, size); return health(); }
Status cuMemcpyDtoDAsync_v2(void *to, const void *from, size_t size) { memmove(to, from, size); return health(); }

/* ------------------------------------------------------------ streams, kernels, graphs */

#define STEP 8              /* in the arena's control block: engine/plan/control.py */
#define POSITION 24
#define MOST_STEPS 4096

typedef struct { char *arena; int64_t *words; } Ending;         /* of a step; the third word is 1 in training */
typedef struct { int count; Ending steps[MOST_STEPS]; } Graph;
static Graph *capturing;
static char end_step;       /* its address is the kernel's handle */

static void end(Ending one) {
    *(int64_t *)(one.arena + POSITION) += 1;
    *(int64_t *)(one.arena + STEP) += one.words[2];
}

Status cuStreamCreateWithPriority(void **made) { *made = made_one(); return OK; }
Status cuStreamSynchronize(void *stream) {
    make_copies(stream);
    counts[BESIDE] += under_way > 0;
    return health();
}
Status cuStreamQuery(void) { return health(); }
Status cuStreamGetCtx(void *stream, void **context) { *context = current; return OK; }
Status cuStreamGetDevice(void *stream, int *device) { *device = 0; return OK; }
Status cuStreamBeginCapture_v2(void) { capturing = calloc(1, sizeof(Graph)); return OK; }
Status cuStreamBeginCaptureToGraph(void *stream, Graph *graph) { capturing = graph; return OK; }
Status cuStreamIsCapturing(void *stream, int *status) { *status = capturing != 0; return OK; }
Status cuStreamGetCaptureInfo_v2(void *stream, int *status, uint64_t *id, void **graph, void **needs, size_t *count) {
    *status = capturing != 0;
    if (id) *id = 1;
    if (graph) *graph = capturing;
    if (needs) *needs = 0;
    if (count) *count = 0;
    return OK;
}
Status cuStreamGetCaptureInfo_v3(void *stream, int *status, uint64_t *id, void **graph, void **needs, void **edges, size_t *count) {
    if (edges) *edges = 0;
    return cuStreamGetCaptureInfo_v2(stream, status, id, graph, needs, count);
}
Status cuStreamEndCapture(void *stream, void **graph) { *graph = capturing; capturing = 0; return OK; }
Status cuGraphCreate(Graph **graph) { *graph = calloc(1, sizeof(Graph)); return OK; }
Status cuGraphInstantiateWithFlags(void **made, void *graph) { *made = graph; return OK; }
Status cuGraphInstantiate(void **made, void *graph) { *made = graph; return OK; }
Status cuGraphInstantiateWithParams(void **made, void *graph, char *how) {
    *made = graph;
    if (how) memset(how + 24, 0, 4);        /* result_out: success */
    return OK;
}
Status cuGraphLaunch(Graph *graph) {
    counts[GRAPHS]++;
    for (int i = 0; i < graph->count; i++) end(graph->steps[i]);
    return health();
}
Status cuLaunchKernelEx(const void *how, void *kernel, void **arguments) {
    Ending one = {*(char **)arguments[0], *(int64_t **)arguments[1]};
    counts[capturing ? CAPTURED : LAUNCHES]++;
    for (int i = 0; i < 6; i++) counts[ARGUMENTS + i] = *(long *)arguments[i];
    if (kernel == &end_step && !capturing) end(one);
    else if (kernel == &end_step && capturing->count < MOST_STEPS) capturing->steps[capturing->count++] = one;
    return health();
}
Status cuLibraryLoadData(void **made, const void *code) { *made = made_one(); return memcmp(code, "\177ELF", 4) ? INVALID_IMAGE : OK; }
Status cuLibraryGetKernel(void **made, void *library, const char *name) { *made = strstr(name, "gpu_end_step") ? &end_step : made_one(); return OK; }
Status cuKernelGetFunction(void **made, void *kernel) { *made = kernel; return OK; }

/* ------------------------------------------------------------ how all of these are found */

Status cuGetErrorString(Status status, const char **text) { *text = "an error that the null driver was told to have"; return OK; }
Status cuGetErrorName(Status status, const char **text) { *text = status == ILLEGAL_ACCESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR"; return OK; }
Status cuGetProcAddress_v2(const char *name, void **found, int version, uint64_t flags, int *status) {
    static const char *versions[] = {"_v3", "_v2", ""};
    char full[200];
    void *self = dlopen("libcuda.so.1", RTLD_LAZY);
    *found = 0;
    for (int i = version < 12030; i < 3 && !*found; i++) {
        snprintf(full, sizeof full, "%s%s", name, versions[i]);
        *found = dlsym(self, full);
    }
    if (!*found) *found = (void *)anything;
    if (status) *status = 0;
    return OK;
}
Status cuGetProcAddress(const char *name, void **found, int version, uint64_t flags) { return cuGetProcAddress_v2(name, found, version, flags, 0); }
