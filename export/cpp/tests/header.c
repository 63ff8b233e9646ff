#include "i3d.h"

int32_t probe(void);

int32_t probe(void) {
    i3d_options options;
    i3d_recognizer* recognizer = NULL;
    i3d_options_init(&options);
    if (i3d_create("model.xml", &options, &recognizer) != I3D_OK) {
        return i3d_last_error()[0];
    }
    i3d_destroy(recognizer);
    return 0;
}
