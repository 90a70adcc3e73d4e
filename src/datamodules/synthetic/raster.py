"""Compiled drawing of a textured mesh: depth-tested triangles, 2x2 samples a pixel.

The picture is drawn in two passes. `cover` finds, for each of the 2x2 samples of every pixel, the nearest triangle; `shade` evaluates the
texture and the lights where a triangle was found and averages the samples over the background. Colours are linear; a byte b stands for the
linear value (b / 255)^2, which is close to sRGB and costs one multiplication.

Axes of the camera: x to the right, y down, z away from it; a surface that faces the camera has a normal with z = -1.
"""

import math

import numpy as np
from jaxtyping import Float32, Int16, Int32, UInt8
from numba import njit

SAMPLES = 2  # samples per pixel along each axis

# Columns of the vertex attributes.
U, V, NX, NY, NZ, OPEN, KEY = range(7)
N_ATTRIBUTES = 7

# Columns of the material table.
(
    OFFSET,
    WIDTH,
    HEIGHT,
    WRAP_R,
    WRAP_G,
    WRAP_B,
    GAIN_R,
    GAIN_G,
    GAIN_B,
    BROAD,
    SHARP,
    SHARP_POWER,
    STRANDS,
    RIM,
    CUTOUT,
    TWO_SIDED,
    DETAILED,
    KIN,
) = range(18)
N_MATERIAL_COLUMNS = 18

# Rows of the light table, each a direction towards the light and a colour, or two colours.
KEY_LIGHT, FILL_LIGHT, RIM_LIGHT, AMBIENT, HALFWAY = range(5)
N_LIGHT_ROWS = 5

_EPSILON = np.float32(1e-3)  # of a sample: neighbouring triangles overlap by it, so that no crack shows
_FAR = np.float32(1e30)
# A cut-out texel covers the first, second, ... of a pixel's four samples as its opacity grows: five levels without sorting.
_THRESHOLDS = np.array([[26, 153], [217, 90]], np.int32)


@njit(cache=True, nogil=True, fastmath=True)
def _write_normals(
    points: Float32[np.ndarray, "v 3"], triangles: Int32[np.ndarray, "f 3"], attributes: Float32[np.ndarray, "v a"]
) -> None:
    """Fill in unit normals: the mean of the adjacent triangles weighted by their area."""
    attributes[:, NX:OPEN] = 0
    for f in range(len(triangles)):
        i, j, k = triangles[f, 0], triangles[f, 1], triangles[f, 2]
        ax, ay, az = points[j, 0] - points[i, 0], points[j, 1] - points[i, 1], points[j, 2] - points[i, 2]
        bx, by, bz = points[k, 0] - points[i, 0], points[k, 1] - points[i, 1], points[k, 2] - points[i, 2]
        nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        for corner in range(3):
            vertex = triangles[f, corner]
            attributes[vertex, NX] += nx
            attributes[vertex, NY] += ny
            attributes[vertex, NZ] += nz
    for v in range(len(points)):
        x, y, z = attributes[v, NX], attributes[v, NY], attributes[v, NZ]
        scale = np.float32(1.0) / math.sqrt(x * x + y * y + z * z + np.float32(1e-20))
        attributes[v, NX] = x * scale
        attributes[v, NY] = y * scale
        attributes[v, NZ] = z * scale


def vertex_normals(
    points: Float32[np.ndarray, "v 3"], triangles: Int32[np.ndarray, "f 3"]
) -> Float32[np.ndarray, "v 3"]:
    """Unit normals of all vertices."""
    attributes = np.zeros((len(points), N_ATTRIBUTES), np.float32)
    _write_normals(points, triangles, attributes)
    return attributes[:, NX:OPEN]


@njit(cache=True, nogil=True, fastmath=True)
def cover(
    points: Float32[np.ndarray, "v 3"],
    attributes: Float32[np.ndarray, "v a"],
    triangles: Int32[np.ndarray, "f 3"],
    material_of: Int32[np.ndarray, "f"],
    materials: Float32[np.ndarray, "m c"],
    texels: UInt8[np.ndarray, "t 4"],
    depth: Float32[np.ndarray, "h w"],
    owner: Int16[np.ndarray, "h w"],
) -> None:
    """Write the depth and the index of the nearest triangle of each sample; `depth` and `owner` are overwritten.

    Args:
        points: x and y in samples (centres at integers), depth in any unit.
        attributes: columns U and V are in [0, 1]; only cut-out materials are looked up here.
    """
    height, width = depth.shape
    right_edge, bottom_edge = np.float32(width - 1), np.float32(height - 1)
    zero, one = np.float32(0.0), np.float32(1.0)
    almost_one = one - _EPSILON
    depth[:] = _FAR
    owner[:] = -1
    for f in range(len(triangles)):
        i, j, k = triangles[f, 0], triangles[f, 1], triangles[f, 2]
        x0, y0, x1, y1, x2, y2 = points[i, 0], points[i, 1], points[j, 0], points[j, 1], points[k, 0], points[k, 1]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        material = material_of[f]
        if area >= zero and materials[material, TWO_SIDED] == zero:
            continue  # seen from behind (y points down, triangles are clockwise from outside)
        left, right = min(x0, x1, x2), max(x0, x1, x2)
        top, bottom = min(y0, y1, y2), max(y0, y1, y2)
        if right < zero or bottom < zero or left > right_edge or top > bottom_edge or abs(area) < np.float32(1e-6):
            continue
        left, right, top, bottom = max(left, zero), min(right, right_edge), max(top, zero), min(bottom, bottom_edge)
        # Barycentric weights of the corners as planes a x + b y + c.
        scale = one / area
        a1, b1 = (y2 - y0) * scale, (x0 - x2) * scale
        c1 = -(a1 * x0 + b1 * y0)
        a2, b2 = (y0 - y1) * scale, (x1 - x0) * scale
        c2 = -(a2 * x0 + b2 * y0)
        a0, b0, c0 = -a1 - a2, -b1 - b2, one - c1 - c2
        z0, z1, z2 = points[i, 2], points[j, 2], points[k, 2]
        za, zb, zc = z0 * a0 + z1 * a1 + z2 * a2, z0 * b0 + z1 * b1 + z2 * b2, z0 * c0 + z1 * c1 + z2 * c2
        # Where each weight is zero along a row: x = slope y + start. It bounds the row from the left where a > 0, else from the right.
        steep = np.float32(1e-12)
        inv0 = -one / (a0 if abs(a0) > steep else steep)
        inv1 = -one / (a1 if abs(a1) > steep else steep)
        inv2 = -one / (a2 if abs(a2) > steep else steep)
        slope0, start0, from_left0 = b0 * inv0, c0 * inv0, a0 > zero
        slope1, start1, from_left1 = b1 * inv1, c1 * inv1, a1 > zero
        slope2, start2, from_left2 = b2 * inv2, c2 * inv2, a2 > zero
        flat0, flat1, flat2 = abs(a0) <= steep, abs(a1) <= steep, abs(a2) <= steep
        cutout = materials[material, CUTOUT] != zero
        if cutout:
            u0, u1, u2 = attributes[i, U], attributes[j, U], attributes[k, U]
            v0, v1, v2 = attributes[i, V], attributes[j, V], attributes[k, V]
            tex_w, tex_h = materials[material, WIDTH], materials[material, HEIGHT]
            ua, ub, uc = (
                (u0 * a0 + u1 * a1 + u2 * a2) * tex_w,
                (u0 * b0 + u1 * b1 + u2 * b2) * tex_w,
                (u0 * c0 + u1 * c1 + u2 * c2) * tex_w,
            )
            va, vb, vc = (
                (v0 * a0 + v1 * a1 + v2 * a2) * tex_h,
                (v0 * b0 + v1 * b1 + v2 * b2) * tex_h,
                (v0 * c0 + v1 * c1 + v2 * c2) * tex_h,
            )
            last_column, last_row_of_texture = tex_w - one, tex_h - one
            pitch, offset = np.int64(tex_w), np.int64(materials[material, OFFSET])
        for y in range(np.int64(top + almost_one), np.int64(bottom + _EPSILON) + 1):
            fy = np.float32(y)
            begin, end = left, right
            x = slope0 * fy + start0
            if from_left0:
                begin = max(begin, x)
            elif not flat0:
                end = min(end, x)
            x = slope1 * fy + start1
            if from_left1:
                begin = max(begin, x)
            elif not flat1:
                end = min(end, x)
            x = slope2 * fy + start2
            if from_left2:
                begin = max(begin, x)
            elif not flat2:
                end = min(end, x)
            first, last = np.int64(begin + almost_one), np.int64(end + _EPSILON)
            if last < first:
                continue
            z_row = zb * fy + zc
            if cutout:
                u_row, v_row = ub * fy + uc, vb * fy + vc
                for column in range(first, last + 1):
                    fx = np.float32(column)
                    z = za * fx + z_row
                    if z < depth[y, column]:
                        tu = np.int64(min(max(ua * fx + u_row, zero), last_column))
                        tv = np.int64(min(max(va * fx + v_row, zero), last_row_of_texture))
                        if texels[offset + tv * pitch + tu, 3] > _THRESHOLDS[y & 1, column & 1]:
                            depth[y, column] = z
                            owner[y, column] = f
            else:
                for column in range(first, last + 1):
                    z = za * np.float32(column) + z_row
                    if z < depth[y, column]:
                        depth[y, column] = z
                        owner[y, column] = f


@njit(cache=True, nogil=True, fastmath=True)
def _colour(
    fx: np.float32,
    fy: np.float32,
    f: int,
    m: int,
    points: Float32[np.ndarray, "v 3"],
    attributes: Float32[np.ndarray, "v a"],
    triangles: Int32[np.ndarray, "f 3"],
    materials: Float32[np.ndarray, "m c"],
    texels: UInt8[np.ndarray, "t 4"],
    lights: Float32[np.ndarray, "l 6"],
) -> tuple[np.float32, np.float32, np.float32]:
    """Linear colour at one place (samples) of triangle `f` of material `m`."""
    byte = np.float32(1.0 / 255.0)
    one, zero, half = np.float32(1.0), np.float32(0.0), np.float32(0.5)
    i, j, k = triangles[f, 0], triangles[f, 1], triangles[f, 2]
    x0, y0 = points[i, 0], points[i, 1]
    dx1, dy1, dx2, dy2 = points[j, 0] - x0, points[j, 1] - y0, points[k, 0] - x0, points[k, 1] - y0
    area = dx1 * dy2 - dx2 * dy1
    px, py = (fx - x0) / area, (fy - y0) / area
    w1, w2 = px * dy2 - py * dx2, py * dx1 - px * dy1
    w0 = one - w1 - w2
    u = w0 * attributes[i, U] + w1 * attributes[j, U] + w2 * attributes[k, U]
    v = w0 * attributes[i, V] + w1 * attributes[j, V] + w2 * attributes[k, V]
    nx = w0 * attributes[i, NX] + w1 * attributes[j, NX] + w2 * attributes[k, NX]
    ny = w0 * attributes[i, NY] + w1 * attributes[j, NY] + w2 * attributes[k, NY]
    nz = w0 * attributes[i, NZ] + w1 * attributes[j, NZ] + w2 * attributes[k, NZ]
    openness = min(max(w0 * attributes[i, OPEN] + w1 * attributes[j, OPEN] + w2 * attributes[k, OPEN], zero), one)
    lit = min(max(w0 * attributes[i, KEY] + w1 * attributes[j, KEY] + w2 * attributes[k, KEY], zero), one)
    # Texture, bilinear.
    tex_w, tex_h = materials[m, WIDTH], materials[m, HEIGHT]
    tu = min(max(u * tex_w - half, zero), tex_w - np.float32(1.001))
    tv = min(max(v * tex_h - half, zero), tex_h - np.float32(1.001))
    iu, iv = np.int64(tu), np.int64(tv)
    fu, fv = tu - np.float32(iu), tv - np.float32(iv)
    pitch = np.int64(tex_w)
    t0 = np.int64(materials[m, OFFSET]) + iv * pitch + iu
    t1 = t0 + pitch
    w11 = fu * fv
    w01, w10 = fu - w11, fv - w11
    w00 = one - fu - w10
    r = (
        w00 * np.float32(texels[t0, 0])
        + w01 * np.float32(texels[t0 + 1, 0])
        + w10 * np.float32(texels[t1, 0])
        + w11 * np.float32(texels[t1 + 1, 0])
    )
    g = (
        w00 * np.float32(texels[t0, 1])
        + w01 * np.float32(texels[t0 + 1, 1])
        + w10 * np.float32(texels[t1, 1])
        + w11 * np.float32(texels[t1 + 1, 1])
    )
    b = (
        w00 * np.float32(texels[t0, 2])
        + w01 * np.float32(texels[t0 + 1, 2])
        + w10 * np.float32(texels[t1, 2])
        + w11 * np.float32(texels[t1 + 1, 2])
    )
    gloss = one if materials[m, CUTOUT] != zero else np.float32(texels[t0, 3]) * byte * np.float32(2.0)
    r, g, b = r * byte, g * byte, b * byte
    r, g, b = r * r, g * g, b * b
    # Normal, of the side that is seen.
    scale = one / math.sqrt(nx * nx + ny * ny + nz * nz + np.float32(1e-12))
    if area > zero:
        scale = -scale
    nx, ny, nz = nx * scale, ny * scale, nz * scale
    # Diffuse light. The key light reaches around the terminator, red furthest: light that travels under the skin.
    n_key = nx * lights[KEY_LIGHT, 0] + ny * lights[KEY_LIGHT, 1] + nz * lights[KEY_LIGHT, 2]
    n_fill = nx * lights[FILL_LIGHT, 0] + ny * lights[FILL_LIGHT, 1] + nz * lights[FILL_LIGHT, 2]
    fill = (half * n_fill + half) * openness
    sky, ground = (half - half * ny) * openness, (half + half * ny) * openness
    key_r = max(n_key + materials[m, WRAP_R], zero) * materials[m, GAIN_R] * lit
    key_g = max(n_key + materials[m, WRAP_G], zero) * materials[m, GAIN_G] * lit
    key_b = max(n_key + materials[m, WRAP_B], zero) * materials[m, GAIN_B] * lit
    r *= (
        key_r * lights[KEY_LIGHT, 3]
        + fill * lights[FILL_LIGHT, 3]
        + sky * lights[AMBIENT, 0]
        + ground * lights[AMBIENT, 3]
    )
    g *= (
        key_g * lights[KEY_LIGHT, 4]
        + fill * lights[FILL_LIGHT, 4]
        + sky * lights[AMBIENT, 1]
        + ground * lights[AMBIENT, 4]
    )
    b *= (
        key_b * lights[KEY_LIGHT, 5]
        + fill * lights[FILL_LIGHT, 5]
        + sky * lights[AMBIENT, 2]
        + ground * lights[AMBIENT, 5]
    )
    # Reflections: a broad and a sharp lobe about the half-way vector, or the band across strands of hair.
    hx, hy, hz = lights[HALFWAY, 0], lights[HALFWAY, 1], lights[HALFWAY, 2]
    lobe = max(nx * hx + ny * hy + nz * hz, zero)
    lobe *= lobe
    lobe *= lobe
    lobe *= lobe
    lobe *= lobe
    shine = lobe * materials[m, BROAD]
    if materials[m, STRANDS] > zero:
        tx, ty, tz = -nx * ny, one - ny * ny, -nz * ny
        along = tx * hx + ty * hy + tz * hz
        band = max(one - along * along / (ty + np.float32(1e-4)), zero)
        band *= band
        band *= band
        band *= band
        band *= band * (half + half * max(n_key, zero))
        shine += band * materials[m, STRANDS]
        tinted = one + np.float32(1.5) * band * lit
        r, g, b = r * tinted, g * tinted, b * tinted
    if materials[m, SHARP] > zero:
        for _ in range(np.int64(materials[m, SHARP_POWER])):
            lobe *= lobe
        shine += lobe * materials[m, SHARP]
    shine *= lit * gloss
    # A light from behind catches the outline.
    edge = one + min(nz, zero)
    n_rim = max(nx * lights[RIM_LIGHT, 0] + ny * lights[RIM_LIGHT, 1] + nz * lights[RIM_LIGHT, 2], zero)
    rim = edge * edge * n_rim * materials[m, RIM] * openness
    return (
        r + shine * lights[KEY_LIGHT, 3] + rim * lights[RIM_LIGHT, 3],
        g + shine * lights[KEY_LIGHT, 4] + rim * lights[RIM_LIGHT, 4],
        b + shine * lights[KEY_LIGHT, 5] + rim * lights[RIM_LIGHT, 5],
    )


@njit(cache=True, nogil=True, fastmath=True)
def shade(
    points: Float32[np.ndarray, "v 3"],
    attributes: Float32[np.ndarray, "v a"],
    triangles: Int32[np.ndarray, "f 3"],
    material_of: Int32[np.ndarray, "f"],
    materials: Float32[np.ndarray, "m c"],
    texels: UInt8[np.ndarray, "t 4"],
    owner: Int16[np.ndarray, "hs ws"],
    lights: Float32[np.ndarray, "l 6"],
    background: Float32[np.ndarray, "h w 3"],
    picture: UInt8[np.ndarray, "h w 3"],
) -> None:
    """Colour every pixel of `picture` from the triangles that `cover` found; arguments as there.

    A pixel whose four samples show materials that are KIN is shaded once, in its middle, unless they are DETAILED; others at each sample.
    """
    height, width = background.shape[:2]
    row = np.empty(3 * width, np.float32)
    zero, one, quarter, half = np.float32(0.0), np.float32(1.0), np.float32(0.25), np.float32(0.5)
    for py in range(height):
        for px in range(width):
            x, y = SAMPLES * px, SAMPLES * py
            f0, f1, f2, f3 = owner[y, x], owner[y, x + 1], owner[y + 1, x], owner[y + 1, x + 1]
            red, green, blue = background[py, px, 0], background[py, px, 1], background[py, px, 2]
            n_hit = (f0 >= 0) + (f1 >= 0) + (f2 >= 0) + (f3 >= 0)
            uniform = False
            if n_hit == SAMPLES * SAMPLES:
                m0, m1, m2, m3 = material_of[f0], material_of[f1], material_of[f2], material_of[f3]
                kin = materials[m0, KIN]
                uniform = materials[m1, KIN] == kin and materials[m2, KIN] == kin and materials[m3, KIN] == kin
                uniform = uniform and materials[m0, DETAILED] == zero
            if uniform:
                fx, fy = np.float32(x) + half, np.float32(y) + half
                red, green, blue = _colour(fx, fy, f0, m0, points, attributes, triangles, materials, texels, lights)
            elif n_hit > 0:
                rest = np.float32(SAMPLES * SAMPLES - n_hit)
                red, green, blue = red * rest, green * rest, blue * rest
                for sub in range(SAMPLES * SAMPLES):
                    sy, sx = y + (sub >> 1), x + (sub & 1)
                    f = owner[sy, sx]
                    if f >= 0:
                        r, g, b = _colour(
                            np.float32(sx),
                            np.float32(sy),
                            f,
                            material_of[f],
                            points,
                            attributes,
                            triangles,
                            materials,
                            texels,
                            lights,
                        )
                        red, green, blue = red + r, green + g, blue + b
                red, green, blue = red * quarter, green * quarter, blue * quarter
            row[3 * px] = red
            row[3 * px + 1] = green
            row[3 * px + 2] = blue
        line = picture[py].reshape(-1)
        for n in range(3 * width):
            # A soft shoulder keeps highlights from clipping.
            linear = max(row[n], zero)
            toned = min(linear * np.float32(1.12) / (one + np.float32(0.12) * linear), one)
            line[n] = np.uint8(np.int32(math.sqrt(toned) * np.float32(255.0) + half))


@njit(cache=True, nogil=True, fastmath=True)
def place(
    points: Float32[np.ndarray, "v 3"],
    head: Float32[np.ndarray, " v"],
    rotation: Float32[np.ndarray, "3 3"],
    shift: Float32[np.ndarray, " 3"],
    pivot: Float32[np.ndarray, " 3"],
    sway: Float32[np.ndarray, " 3"],
    camera: Float32[np.ndarray, " 5"],
    placed: Float32[np.ndarray, "v 3"],
    screen: Float32[np.ndarray, "v 3"],
) -> None:
    """Turn the head and project it.

    Args:
        head: 1 where a vertex turns with the head, 0 where it stays with the body, which moves by `sway`.
        camera: samples per unit, distance of the camera, centre x and y as shares of the side, side in samples.
        placed: receives the vertices in the camera's frame.
        screen: receives x and y in samples and the depth.
    """
    for v in range(len(points)):
        x, y, z = points[v, 0] - pivot[0], points[v, 1] - pivot[1], points[v, 2] - pivot[2]
        share = head[v]
        for axis in range(3):
            turned = rotation[axis, 0] * x + rotation[axis, 1] * y + rotation[axis, 2] * z + pivot[axis] + shift[axis]
            placed[v, axis] = share * turned + (np.float32(1.0) - share) * (points[v, axis] + sway[axis])
        scale = camera[0] * camera[1] / (camera[1] + placed[v, 2])
        # Pixel centres are integers: sample s of a pixel p lies at p + (s - 1/2) / 2.
        screen[v, 0] = placed[v, 0] * scale + camera[2] * camera[4] - np.float32(0.5)
        screen[v, 1] = placed[v, 1] * scale + camera[3] * camera[4] - np.float32(0.5)
        screen[v, 2] = placed[v, 2]


@njit(cache=True, nogil=True, fastmath=True)
def draw(
    rest: Float32[np.ndarray, "v 3"],
    anchor: Int32[np.ndarray, " v"],
    follow: Float32[np.ndarray, " v"],
    head: Float32[np.ndarray, " v"],
    moves: Float32[np.ndarray, "t p 3"],
    own_index: Int32[np.ndarray, " n"],
    own: Float32[np.ndarray, "t n 3"],
    eye_index: Int32[np.ndarray, " e"],
    eye: Float32[np.ndarray, "t e 4"],
    rotation: Float32[np.ndarray, "t 3 3"],
    shift: Float32[np.ndarray, "t 3"],
    sway: Float32[np.ndarray, "t 3"],
    pivot: Float32[np.ndarray, " 3"],
    camera: Float32[np.ndarray, " 5"],
    attributes: Float32[np.ndarray, "v a"],
    triangles: Int32[np.ndarray, "f 3"],
    material_of: Int32[np.ndarray, "f"],
    materials: Float32[np.ndarray, "m c"],
    texels: UInt8[np.ndarray, "t 4"],
    lights: Float32[np.ndarray, "l 6"],
    background: Float32[np.ndarray, "h w 3"],
    pictures: UInt8[np.ndarray, "t h w 3"],
) -> None:
    """Pictures of a moving head.

    Args:
        rest: vertices of the head at rest, in its own frame.
        anchor, follow: a vertex copies the move of the face's point `anchor` by the share `follow`.
        head: 1 where a vertex turns with the head, 0 where it stays with the body.
        moves: displacements of the face's points.
        own_index, own: vertices that move in their own way, and where they are.
        eye_index, eye: vertices of the eyeballs; their normals in the head's frame, and the light that reaches them.
        rotation, shift: of the head about `pivot`; `sway` shifts the body.
        camera: see `place`.
        attributes: texture coordinates and light of all vertices; normals are filled in.
    """
    height, width = background.shape[:2]
    depth = np.empty((SAMPLES * height, SAMPLES * width), np.float32)
    owner = np.empty((SAMPLES * height, SAMPLES * width), np.int16)
    local, placed, screen = np.empty_like(rest), np.empty_like(rest), np.empty_like(rest)
    for t in range(len(pictures)):
        for v in range(len(rest)):
            for axis in range(3):
                local[v, axis] = rest[v, axis] + follow[v] * moves[t, anchor[v], axis]
        for n in range(len(own_index)):
            for axis in range(3):
                local[own_index[n], axis] = own[t, n, axis]
        place(local, head, rotation[t], shift[t], pivot, sway[t], camera, placed, screen)
        _write_normals(placed, triangles, attributes)
        for n in range(len(eye_index)):
            v = eye_index[n]
            for axis in range(3):
                turned = (
                    rotation[t, axis, 0] * eye[t, n, 0]
                    + rotation[t, axis, 1] * eye[t, n, 1]
                    + rotation[t, axis, 2] * eye[t, n, 2]
                )
                attributes[v, NX + axis] = turned
            attributes[v, OPEN] = eye[t, n, 3]
            attributes[v, KEY] = eye[t, n, 3]
        cover(screen, attributes, triangles, material_of, materials, texels, depth, owner)
        shade(screen, attributes, triangles, material_of, materials, texels, owner, lights, background, pictures[t])
