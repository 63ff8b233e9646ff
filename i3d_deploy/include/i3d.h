/* i3d: recognise actions in video with an engine that i3d-export wrote. Needs nothing but this header and libi3d.
 *
 * The engine carries a card, which says all that is done to a video: which frames are taken, how they are resized and
 * cropped, how views are averaged, and what the classes are called. The library does all of it. The caller brings
 * frames or, where the library was built with OpenCV, a video file.
 *
 * Errors: functions that can fail return an i3d_status; i3d_last_error() is a line of text that says what was given,
 * what is allowed and what to do. Nothing is written through a pointer to a result when a call fails, but NULL to
 * pointers to handles.
 *
 * Threads: a recognizer may be used by any number of threads at once; they prepare their videos side by side and take
 * turns at the engine. A prediction belongs to one thread at a time; streams have a rule of their own below.
 * i3d_destroy() comes after all other calls with the recognizer, and after its streams were destroyed; predictions may
 * outlive it. i3d_last_error() is each thread's own. After a fork, the child uses only what it created itself.
 *
 * Structures that a caller fills in begin with their size, so that later versions can add fields: set them up with
 * their i3d_..._init() function.
 */
#ifndef I3D_H
#define I3D_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define I3D_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

#define I3D_VERSION_MAJOR 0
#define I3D_VERSION_MINOR 1
#define I3D_VERSION_PATCH 0

typedef int32_t i3d_status;
enum {
    I3D_OK = 0,
    I3D_ERROR_INPUT = 1,    /* an argument or option is out of range */
    I3D_ERROR_VIDEO = 2,    /* a video gives no usable frames */
    I3D_ERROR_CARD = 3,     /* a card is missing, malformed or of a newer version */
    I3D_ERROR_ARTIFACT = 4, /* an engine is missing, truncated, altered or of the wrong type */
    I3D_ERROR_BACKEND = 5,  /* the build lacks what runs this kind of engine, or the machine lacks its libraries */
    I3D_ERROR_DEVICE = 6,   /* the machine has not what the engine needs */
    I3D_ERROR_MEMORY = 7,   /* there is not enough memory */
    I3D_ERROR_INTERNAL = 8  /* a bug of this library */
};

/* i3d_..._init(): a structure of the caller's with its size and zeros, which stand for the usual. Inline, so that the
 * size is that of the header which the caller was compiled with. */
#define I3D_INIT(type)                             \
    static inline void type##_init(type* values) { \
        memset(values, 0, sizeof *values);         \
        values->size = (uint32_t)sizeof *values;   \
    }

typedef struct i3d_recognizer i3d_recognizer;
typedef struct i3d_prediction i3d_prediction;

/* What went wrong in this thread's last call that failed; "" before one did. Valid until the thread's next call. */
I3D_API const char* i3d_last_error(void);

/* Version of the library, such as "0.1.0". */
I3D_API const char* i3d_version(void);

/* Whether this build has a backend, and its libraries load on this machine: "openvino", "onnxruntime", "tensorrt",
 * "tensorrt_rtx". Where not, i3d_last_error() says why. Devices are looked for when an engine is loaded. */
I3D_API i3d_status i3d_check_backend(const char* name);

/* Whether the library was built with OpenCV and so reads video files. */
I3D_API int32_t i3d_reads_files(void);

/* ---- A recognizer ---------------------------------------------------------------------------------------------- */

typedef struct i3d_options {
    uint32_t size;
    int32_t threads; /* CPU threads of the engine; 0: the backend's choice */
    const char*
        device; /* "auto" (the default, also for NULL), "cpu", "cuda:0", or the backend's word for another one */
} i3d_options;

I3D_INIT(i3d_options)

/* Load an engine.
 *   path: .xml (OpenVINO, its .bin beside it), .onnx, or .engine (TensorRT, its .engine.json beside it).
 *   options: NULL: the defaults.
 *   recognizer: to be given to i3d_destroy(). */
I3D_API i3d_status i3d_create(const char* path, const i3d_options* options, i3d_recognizer** recognizer);

/* Free a recognizer; NULL is allowed. */
I3D_API void i3d_destroy(i3d_recognizer* recognizer);

/* What a recognizer is. Texts are UTF-8 and live as long as the recognizer. */
typedef struct i3d_description {
    uint32_t size;
    uint32_t num_classes;
    uint32_t clip_len;       /* frames per clip; of networks of whole videos, of one of the usual length */
    uint32_t frame_interval; /* distance of two frames of a clip */
    uint32_t num_clips;      /* clips per video */
    uint32_t num_crops;      /* crops per clip */
    uint32_t crop_size;      /* side of a crop in pixels */
    uint32_t takes_whole_videos;
    uint32_t has_float_pixels; /* views are float32 of 0 to 255, not uint8 */
    double frames_per_second;  /* the rate that frames are counted at; 0: whatever rate a video has */
    const char* network;
    const char* label_set;
    const char* precision; /* type of the convolutions */
    const char* backend;   /* what runs it, and its version */
    const char* device;
    const char* card; /* the whole card, as JSON */
} i3d_description;

I3D_INIT(i3d_description)
I3D_API i3d_status i3d_describe(const i3d_recognizer* recognizer, i3d_description* description);

/* Name of a class; NULL where there is none of that number. Lives as long as the recognizer. */
I3D_API const char* i3d_label(const i3d_recognizer* recognizer, uint32_t index);

/* ---- Frames ---------------------------------------------------------------------------------------------------- */

typedef int32_t i3d_color;
enum { I3D_RGB = 0, I3D_BGR = 1 };

/* One frame of the caller's: height rows of width pixels of three bytes. */
typedef struct i3d_image {
    uint32_t size;
    i3d_color color;
    const uint8_t* data;
    int32_t height;
    int32_t width;
    int64_t row_stride; /* bytes from a row to the next one, negative from below; 0: rows lie side by side */
} i3d_image;

I3D_INIT(i3d_image)

/* Frames of a video that lie in memory. */
typedef struct i3d_frames {
    uint32_t size;
    i3d_color color;
    const uint8_t* data;
    int64_t num_frames;
    int32_t height;
    int32_t width;
    int64_t row_stride;   /* bytes, negative from below; 0: rows lie side by side */
    int64_t frame_stride; /* bytes, less than a frame where frames are tiles of a picture; 0: they lie side by side */
    double frames_per_second; /* from 0.1 to 1000; 0: not known, the card's is assumed */
} i3d_frames;

I3D_INIT(i3d_frames)

/* Give a frame of a video: fill in image, which is set up, and whose pixels stay valid until the next call. Called in
 * the thread that predicts, for the frames that are needed and in ascending order, each once. Anything but 0 ends the
 * prediction with I3D_ERROR_VIDEO. */
typedef int32_t (*i3d_read_frame)(void* user, int64_t index, i3d_image* image);

/* Frames of a video that are read when they are needed, so that no more than those are in memory. */
typedef struct i3d_reader {
    uint32_t size;
    int32_t reserved;
    i3d_read_frame read;
    void* user;
    int64_t num_frames;
    double frames_per_second; /* from 0.1 to 1000; 0: not known, the card's is assumed */
} i3d_reader;

I3D_INIT(i3d_reader)

/* ---- Predicting ------------------------------------------------------------------------------------------------- */

typedef struct i3d_run_options {
    uint32_t size;
    int32_t clips; /* clips per video, at most 1000; 0: the card's */
    int32_t crops; /* crops per clip, 1 or 3; 0: the card's */
    int32_t batch; /* views per run of the engine, at most 1024; 0: what suits it. Only rounding depends on it */
} i3d_run_options;

I3D_INIT(i3d_run_options)

/* Recognise the action in a video; options may be NULL. The prediction is to be given to i3d_prediction_destroy(). */
I3D_API i3d_status i3d_run(i3d_recognizer* recognizer, const i3d_frames* frames, const i3d_run_options* options,
                           i3d_prediction** prediction);
I3D_API i3d_status i3d_run_reader(i3d_recognizer* recognizer, const i3d_reader* reader, const i3d_run_options* options,
                                  i3d_prediction** prediction);
I3D_API i3d_status i3d_run_file(i3d_recognizer* recognizer, const char* path, const i3d_run_options* options,
                                i3d_prediction** prediction);

I3D_API void i3d_prediction_destroy(i3d_prediction* prediction);

/* Numbers of a prediction, which live as long as it does: probabilities (num_classes), averaged over the views; logits
 * (num_views x num_classes), a row per view, all clips under the first crop, then those under the next one. */
I3D_API const float* i3d_probabilities(const i3d_prediction* prediction);
I3D_API const float* i3d_logits(const i3d_prediction* prediction);
I3D_API uint32_t i3d_num_classes(const i3d_prediction* prediction);
I3D_API uint32_t i3d_num_views(const i3d_prediction* prediction);
/* Frames of the video. */
I3D_API int64_t i3d_num_frames(const i3d_prediction* prediction);
/* What was wrong with the video, a line each; NULL beyond the last one. */
I3D_API const char* i3d_warning(const i3d_prediction* prediction, uint32_t number);
/* The most probable classes, best first, equal ones in their order. Writes at most count numbers and returns how many.
 */
I3D_API uint32_t i3d_top(const i3d_prediction* prediction, uint32_t count, uint32_t* indices);

/* ---- Streams --------------------------------------------------------------------------------------------------- */

typedef struct i3d_stream i3d_stream;

/* What is predicted of a stream. */
typedef struct i3d_stream_options {
    uint32_t size;
    int32_t clips;            /* clips of a window; 0: 1 */
    int32_t crops;            /* crops of a clip, 1 or 3; 0: 1 */
    int32_t batch;            /* as of i3d_run_options */
    double window_seconds;    /* 0: what a clip of the card spans */
    double every_seconds;     /* from the beginning of a window to that of the next one; 0: one after the other */
    double frames_per_second; /* rate that frames are counted at, for cards without one */
} i3d_stream_options;

/* One window of a stream. */
typedef struct i3d_window {
    uint32_t size;
    int32_t has_ended;       /* no window follows: the prediction is NULL */
    double start_seconds;    /* in the time of the frames */
    double end_seconds;      /* where its last frame gives way to the next one */
    double lag_seconds;      /* from the coming of the frame that completed it to the prediction */
    int64_t dropped_windows; /* of the stream so far, because others were being computed */
    int64_t dropped_frames;  /* at the rate that they are counted at, that were in such windows only */
} i3d_window;

I3D_INIT(i3d_stream_options)
I3D_INIT(i3d_window)

/* Begin a stream; options may be NULL where the card has a rate. One thread gives frames, another asks for predictions:
 * i3d_stream_push, _restart and _end belong to one thread at a time, i3d_stream_next to one, and i3d_stream_cancel to
 * any. i3d_stream_destroy() comes after all of these have returned, and before i3d_destroy(). The prediction of a
 * window is that of a video of its frames, by their times at the card's rate. When a window is complete before the one
 * before it was asked for, that one is dropped, so that predictions do not fall behind and memory stays flat. No
 * window spans a pause longer than itself, a restart or a change of size: the warnings of the first window after them
 * say so, and how long the longest pause was, of which i3d_stream_restart() leaves nothing known. In shorter pauses the
 * nearest frame is repeated. The warnings of a window say so where fewer than seven tenths of the frames that its clips
 * take are different, and of a pause between two of its frames from half a second on, where it is three times as long
 * as they are apart in the median. */
I3D_API i3d_status i3d_stream_create(i3d_recognizer* recognizer, const i3d_stream_options* options,
                                     i3d_stream** stream);
I3D_API void i3d_stream_destroy(i3d_stream* stream);

/* Give a frame, which is copied, with its time in seconds, later than the one before; not after the end. */
I3D_API i3d_status i3d_stream_push(i3d_stream* stream, const i3d_image* image, double seconds);

/* Frames that follow make no windows with those before: a connection was lost. Their times may begin anywhere. */
I3D_API i3d_status i3d_stream_restart(i3d_stream* stream);

/* No frame follows; frame_seconds says how long the last one lasts, at most a window. 0: as at the rate that is counted
 * at. Windows that are complete are still predicted. */
I3D_API i3d_status i3d_stream_end(i3d_stream* stream, double frame_seconds);

/* End a stream at once, from any thread: i3d_stream_next() that waits returns with has_ended, and no frame is taken. */
I3D_API i3d_status i3d_stream_cancel(i3d_stream* stream);

/* Predict the newest window that is complete, waiting for one at most wait_seconds; below 0: as long as it takes. The
 * prediction is NULL where none came in time or the stream has ended, and else to be given to i3d_prediction_destroy().
 * I3D_ERROR_VIDEO where the stream has ended before any window was full, as with times that are no seconds.
 * window: what it is; set up with i3d_window_init(). */
I3D_API i3d_status i3d_stream_next(i3d_stream* stream, double wait_seconds, i3d_window* window,
                                   i3d_prediction** prediction);

/* ---- Steps by themselves, for engines that run elsewhere --------------------------------------------------------- */

/* The frames that make the clips of a video: clips x clip_len numbers in [0, num_frames), clip after clip.
 *   indices: capacity numbers; NULL to ask for the sizes alone.
 *   clips, clip_len: how many there are, also where the capacity is too small, which is I3D_ERROR_INPUT. */
I3D_API i3d_status i3d_frame_indices(const i3d_recognizer* recognizer, int64_t num_frames, double frames_per_second,
                                     const i3d_run_options* options, int64_t* indices, uint64_t capacity,
                                     uint64_t* clips, uint64_t* clip_len);

/* The views of a video, (V, T, H, W, 3) of uint8, or of float32 where the description says has_float_pixels.
 *   views: capacity bytes; NULL to ask for the size alone.
 *   size: bytes of all views, also where the capacity is too small, which is I3D_ERROR_INPUT. */
I3D_API i3d_status i3d_views(const i3d_recognizer* recognizer, const i3d_frames* frames, const i3d_run_options* options,
                             void* views, uint64_t capacity, uint64_t* size);

#ifdef __cplusplus
}
#endif

#endif
