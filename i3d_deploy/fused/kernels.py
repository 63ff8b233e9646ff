"""Triton kernels: a convolution with what follows it, a max pool, and frames made into the stem's input.

Activations are (N, T, H, W, C), channels last. Their pixels may be wider than C (a slice of the channels of a larger
tensor), and are evenly spaced.

Note [Convolution as a matrix product]
    A row of the product is one output position, a column one output channel, and the sum goes over the taps of the
    kernel and the channels under each. The rows of the left matrix are gathered from the input while they are needed:
    nothing is unfolded in memory. A 1x1x1 convolution is the plain product. Where a pixel has few channels (the stem),
    one step of the sum takes several neighbouring columns of the kernel at once, which lie together in memory; the
    kernel's row is filled up with zeros to a whole number of steps.

    Sums are float32, of eight bits as well: what a matrix unit adds up by itself, with fewer bits, is added to them
    step by step. Scale, bias, shortcut and ReLU are applied to the sums before anything is rounded or written.

Note [Padding as bits]
    Whether a tap lies inside is asked anew in every step, for every row. So it is worked out before: a row has 8 bits
    for each axis, one for each position along it that is inside, and a step compares them with the bits of its tap.

Note [Checked without a GPU]
    With TRITON_INTERPRET=1 in the environment when this module is imported, Triton runs the kernels on the CPU.
"""

from __future__ import annotations

from i3d_deploy.errors import MissingExtraError

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise MissingExtraError("triton", extra="kernels", cause=error) from error


@triton.jit
def bits_inside(first, size):  # type: ignore[no-untyped-def]
    """Bit i says whether position ``first + i`` lies in [0, size), for 8 positions: Note [Padding as bits]."""
    end = tl.minimum(size - first, 8)
    begin = tl.minimum(tl.maximum(-first, 0), end)
    return (1 << end) - (1 << begin)


@triton.jit  # type: ignore[untyped-decorator]
def convolve(  # type: ignore[no-untyped-def]
    x,
    weight,
    scale,
    bias,
    shortcut,
    out,
    positions,
    frames,
    height,
    width,
    out_frames,
    out_height,
    out_width,
    out_channels,
    x_pixel,
    shortcut_pixel,
    out_pixel,
    pad_frames,
    pad_rows,
    pad_columns,
    channels: tl.constexpr,
    kernel_frames: tl.constexpr,
    kernel_rows: tl.constexpr,
    kernel_steps: tl.constexpr,
    pixels_per_step: tl.constexpr,
    stride_frames: tl.constexpr,
    stride_rows: tl.constexpr,
    stride_columns: tl.constexpr,
    has_frames_outside: tl.constexpr,
    has_rows_outside: tl.constexpr,
    has_columns_outside: tl.constexpr,
    keeps_sizes: tl.constexpr,
    is_rectified: tl.constexpr,
    is_transposed: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    depth: tl.constexpr,
):
    """One tile of (rows positions, columns output channels). Note [Convolution as a matrix product].

    ``weight`` is (K, parts, KT, KH, steps, depth), contiguous: :func:`i3d_deploy.fused.tiled.packed`. ``depth`` is
    what one step sums over: ``pixels_per_step * channels`` where that is more than one pixel, else a part of the
    channels. ``keeps_sizes``: outputs lie where inputs do. ``scale`` and ``shortcut`` may be None.
    """
    column_tiles = tl.cdiv(out_channels, columns)
    # The column tiles of one row tile follow each other, so that its rows are still in the cache.
    row = (tl.program_id(0) // column_tiles) * rows + tl.arange(0, rows)
    column = (tl.program_id(0) % column_tiles) * columns + tl.arange(0, columns)
    step = tl.arange(0, depth)
    parts: tl.constexpr = (channels + depth - 1) // depth if pixels_per_step == 1 else 1
    steps: tl.constexpr = kernel_frames * kernel_rows * kernel_steps * parts

    # What lies beyond the last row or column is computed from the last one, and not written.
    place = tl.minimum(row, positions - 1)
    left = place % out_width
    above = place // out_width
    top = above % out_height
    image = above // out_height
    first_row = top * stride_rows - pad_rows
    first_column = left * stride_columns - pad_columns
    if kernel_frames == 1 and stride_frames == 1:
        first_frame = image
        first_image = image
    else:
        first_frame = image % out_frames * stride_frames - pad_frames
        first_image = image // out_frames * frames + first_frame
    if keeps_sizes:
        first = place - ((pad_frames * height + pad_rows) * width + pad_columns)
    else:
        first = (first_image * height + first_row) * width + first_column
    inside = tl.zeros((rows,), dtype=tl.int32)
    if has_frames_outside:
        inside |= bits_inside(first_frame, frames)
    if has_rows_outside:
        inside |= bits_inside(first_row, height) << 8
    if has_columns_outside:
        inside |= bits_inside(first_column, width) << 16

    step_offset = step // channels * x_pixel + step % channels if pixels_per_step > 1 else step
    offsets = first[:, None] * x_pixel + step_offset[None, :]
    weights_at = tl.minimum(column, out_channels - 1)[None, :] * (steps * depth) + step[:, None]
    is_column = column < out_channels
    is_written = (row < positions)[:, None] & is_column[None, :]
    # On its way while the sum is made, where that is one step: more of them want the registers.
    is_short: tl.constexpr = steps == 1
    if shortcut is not None and is_short:
        added = tl.load(shortcut + row[:, None] * shortcut_pixel + column[None, :], mask=is_written, other=0.0)
    added_at_once: tl.constexpr = depth if x.dtype.element_ty.primitive_bitwidth == 8 else None
    sums = tl.zeros((columns, rows) if is_transposed else (rows, columns), dtype=tl.float32)
    for number in range(steps):
        # Taps see mostly the same pixels: one after the other, these are found in a cache.
        tap = number % (steps // parts)
        part = number // (steps // parts)
        tap_column = (tap % kernel_steps) * pixels_per_step
        tap_row = (tap // kernel_steps) % kernel_rows
        tap_frame = tap // (kernel_steps * kernel_rows)
        tap_offset = ((tap_frame * height + tap_row) * width + tap_column) * x_pixel + part * depth
        wanted = tl.zeros((depth,), dtype=tl.int32)
        if has_frames_outside:
            wanted |= 1 << tap_frame
        if has_rows_outside:
            wanted |= 256 << tap_row
        if has_columns_outside:
            wanted |= 65536 << (tap_column + (step // channels if pixels_per_step > 1 else 0))
        is_outside = has_frames_outside or has_rows_outside or has_columns_outside
        if is_outside and channels * pixels_per_step % depth == 0:
            is_read = (inside[:, None] & wanted[None, :]) == wanted[None, :]
            inputs = tl.load(x + tap_offset + offsets, mask=is_read, other=0.0)
        elif channels * pixels_per_step % depth == 0:
            inputs = tl.load(x + tap_offset + offsets)
        else:
            is_read = (inside[:, None] & wanted[None, :]) == wanted[None, :]
            is_read &= (part * depth + step < channels)[None, :]
            inputs = tl.load(x + tap_offset + offsets, mask=is_read, other=0.0)
        weights = tl.load(weight + number * depth + weights_at)
        if is_transposed:
            sums = tl.dot(weights.T, inputs.T, sums, input_precision="ieee", max_num_imprecise_acc=added_at_once)
        else:
            sums = tl.dot(inputs, weights, sums, input_precision="ieee", max_num_imprecise_acc=added_at_once)

    if is_transposed:
        sums = sums.T
    if scale is not None:
        sums *= tl.load(scale + column, mask=is_column, other=0.0)[None, :]
    sums += tl.load(bias + column, mask=is_column, other=0.0)[None, :]
    if shortcut is not None:
        if not is_short:
            added = tl.load(shortcut + row[:, None] * shortcut_pixel + column[None, :], mask=is_written, other=0.0)
        sums += added.to(tl.float32)
    if is_rectified:
        sums = tl.maximum(sums, 0.0)
    tl.store(out + row[:, None] * out_pixel + column[None, :], sums.to(out.dtype.element_ty), mask=is_written)


@triton.jit  # type: ignore[untyped-decorator]
def max_pool(  # type: ignore[no-untyped-def]
    x,
    out,
    positions,
    frames,
    height,
    width,
    out_frames,
    out_height,
    out_width,
    channels,
    x_pixel,
    out_pixel,
    pad_frames,
    pad_rows,
    pad_columns,
    kernel_frames: tl.constexpr,
    kernel_rows: tl.constexpr,
    kernel_columns: tl.constexpr,
    stride_frames: tl.constexpr,
    stride_rows: tl.constexpr,
    stride_columns: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
):
    """Maxima of one tile of (rows positions, columns channels); what lies outside never wins."""
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    channel = tl.program_id(1) * columns + tl.arange(0, columns)
    is_row = row < positions
    is_written = is_row[:, None] & (channel < channels)[None, :]
    first_column = (row % out_width) * stride_columns - pad_columns
    first_row = (row // out_width) % out_height * stride_rows - pad_rows
    first_frame = (row // (out_width * out_height)) % out_frames * stride_frames - pad_frames
    view = row // (out_width * out_height * out_frames)
    largest = tl.full((rows, columns), float("-inf"), dtype=x.dtype.element_ty)
    for tap in tl.static_range(kernel_frames * kernel_rows * kernel_columns):
        at_frame = first_frame + tap // (kernel_rows * kernel_columns)
        at_row = first_row + (tap // kernel_columns) % kernel_rows
        at_column = first_column + tap % kernel_columns
        is_inside = (at_frame >= 0) & (at_frame < frames) & (at_row >= 0) & (at_row < height)
        is_inside = is_inside & (at_column >= 0) & (at_column < width)
        pixel = ((view * frames + at_frame) * height + at_row) * width + at_column
        place = pixel[:, None] * x_pixel + channel[None, :]
        found = tl.load(x + place, mask=is_written & is_inside[:, None], other=float("-inf"))
        largest = tl.maximum(largest, found)
    tl.store(out + row[:, None] * out_pixel + channel[None, :], largest.to(x.dtype.element_ty), mask=is_written)


@triton.jit  # type: ignore[untyped-decorator]
def stack_frames(  # type: ignore[no-untyped-def]
    pixels,
    origins,
    pitch,
    mean,
    factor,
    out,
    frames,
    out_frames,
    height,
    width,
    pad_frames,
    channels: tl.constexpr,
    kernel_frames: tl.constexpr,
    stride_frames: tl.constexpr,
    stacked: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
):
    """Normalise a tile of (rows, columns) pixels of all frames that the stem sees at once.

    ``origins`` has, for each view and frame, where in ``pixels`` its crop begins; rows of a frame lie ``pitch[0]``
    elements apart. ``out`` is (N, T', H, W, stacked): frame after frame, then zeros.
    """
    row_tiles = tl.cdiv(height, rows)
    image = tl.program_id(0) // row_tiles
    first_row = (tl.program_id(0) % row_tiles) * rows
    frame = image % out_frames
    view = image // out_frames
    column = tl.program_id(1) * columns + tl.arange(0, columns)
    place = tl.arange(0, stacked)
    color = place % channels
    at = frame * stride_frames - pad_frames + place // channels
    is_frame = (at >= 0) & (at < frames) & (place < channels * kernel_frames)
    origin = tl.load(origins + view * frames + at, mask=is_frame, other=0)
    # What is not read becomes (0 - 0) * 0.
    shift = tl.load(mean + color, mask=is_frame, other=0.0)
    by = tl.load(factor + color, mask=is_frame, other=0.0)
    step = tl.load(pitch)
    is_column = (column < width)[:, None]
    source = pixels + (origin + first_row * step)[None, :] + (column[:, None] * channels + color[None, :])
    target = out + (image * height + first_row).to(tl.int64) * width * stacked
    target = target + (column[:, None] * stacked + place[None, :])
    for row in range(rows):
        is_written = is_column & (first_row + row < height)
        values = tl.load(source, mask=is_written & is_frame[None, :], other=0).to(tl.float32)
        values = (values - shift[None, :]) * by[None, :]
        tl.store(target, values.to(out.dtype.element_ty), mask=is_written)
        source += step
        target += width * stacked


def tiles(size: int, length: int) -> int:
    """Tiles of some length that a size needs."""
    return -(-size // length)


def power_of_two(size: int) -> int:
    """The smallest power of two that is no smaller."""
    return 1 << (size - 1).bit_length()
