"""Compiled drawing of a textured mesh: depth-tested triangles, 2x2 samples a pixel, shading per sample.

The picture is drawn in two passes. `cover` finds, for each of the 2x2 samples of every pixel, the nearest triangle; `shade` evaluates the
texture and the lights where a triangle was found and averages the samples over the background. Colours are linear; a byte b stands for the
linear value (b / 255)^2, which is close to sRGB and costs one multiplication.

Axes of the camera: x to the right, y down, z away from it; a surface that faces the camera has a normal with z = -1.
"""

import math

import numpy as np
from jaxtyping import Float32, Int32, UInt8
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
def vertex_normals(
    points: Float32[np.ndarray, "v 3"], triangles: Int32[np.ndarray, "f 3"]
) -> Float32[np.ndarray, "v 3"]:
    """Unit normals, the mean of the adjacent triangles weighted by their area."""
    normals = np.zeros_like(points)
    for f in range(len(triangles)):
        i, j, k = triangles[f, 0], triangles[f, 1], triangles[f, 2]
        ax, ay, az = points[j, 0] - points[i, 0], points[j, 1] - points[i, 1], points[j, 2] - points[i, 2]
        bx, by, bz = points[k, 0] - points[i, 0], points[k, 1] - points[i, 1], points[k, 2] - points[i, 2]
        nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        for corner in range(3):
            vertex = triangles[f, corner]
            normals[vertex, 0] += nx
            normals[vertex, 1] += ny
            normals[vertex, 2] += nz
    for v in range(len(points)):
        x, y, z = normals[v, 0], normals[v, 1], normals[v, 2]
        scale = np.float32(1.0) / math.sqrt(x * x + y * y + z * z + np.float32(1e-20))
        normals[v, 0] = x * scale
        normals[v, 1] = y * scale
        normals[v, 2] = z * scale
    return normals


@njit(cache=True, nogil=True, fastmath=True)
def cover(
    points: Float32[np.ndarray, "v 3"],
    attributes: Float32[np.ndarray, "v a"],
    triangles: Int32[np.ndarray, "f 3"],
    material_of: Int32[np.ndarray, "f"],
    materials: Float32[np.ndarray, "m c"],
    texels: UInt8[np.ndarray, "t 4"],
    depth: Float32[np.ndarray, "h w"],
    owner: Int32[np.ndarray, "h w"],
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
def _make_planes(points, attributes, triangles, f, planes):
    """Attributes over triangle `f` as planes a x + b y + c, in row `f` of `planes`; true if it is seen from behind."""
    i, j, k = triangles[f, 0], triangles[f, 1], triangles[f, 2]
    x0, y0 = points[i, 0], points[i, 1]
    dx1, dy1, dx2, dy2 = points[j, 0] - x0, points[j, 1] - y0, points[k, 0] - x0, points[k, 1] - y0
    scale = np.float32(1.0) / (dx1 * dy2 - dx2 * dy1)
    for n in range(N_ATTRIBUTES):
        base = attributes[i, n]
        d1, d2 = (attributes[j, n] - base) * scale, (attributes[k, n] - base) * scale
        a, b = d1 * dy2 - d2 * dy1, d2 * dx1 - d1 * dx2
        planes[f, n, 0] = a
        planes[f, n, 1] = b
        planes[f, n, 2] = base - a * x0 - b * y0
    return scale > np.float32(0.0)


@njit(cache=True, nogil=True, fastmath=True)
def _colour(fx, fy, f, m, behind, planes, materials, texels, lights):
    """Linear colour at one place (samples) of triangle `f` of material `m`."""
    byte = np.float32(1.0 / 255.0)
    one, zero, half = np.float32(1.0), np.float32(0.0), np.float32(0.5)
    u = planes[f, U, 0] * fx + planes[f, U, 1] * fy + planes[f, U, 2]
    v = planes[f, V, 0] * fx + planes[f, V, 1] * fy + planes[f, V, 2]
    nx = planes[f, NX, 0] * fx + planes[f, NX, 1] * fy + planes[f, NX, 2]
    ny = planes[f, NY, 0] * fx + planes[f, NY, 1] * fy + planes[f, NY, 2]
    nz = planes[f, NZ, 0] * fx + planes[f, NZ, 1] * fy + planes[f, NZ, 2]
    openness = min(max(planes[f, OPEN, 0] * fx + planes[f, OPEN, 1] * fy + planes[f, OPEN, 2], zero), one)
    lit = min(max(planes[f, KEY, 0] * fx + planes[f, KEY, 1] * fy + planes[f, KEY, 2], zero), one)
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
    if behind:
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
    lights: Float32[np.ndarray, "l 6"],
    owner: Int32[np.ndarray, "hs ws"],
    background: Float32[np.ndarray, "h w 3"],
    planes: Float32[np.ndarray, "f a 3"],
    state: UInt8[np.ndarray, " f"],
    picture: UInt8[np.ndarray, "h w 3"],
) -> None:
    """Colour every pixel of `picture` from the triangles that `cover` found; arguments as there.

    A pixel whose four samples show materials that are KIN is shaded once, in its middle, unless they are DETAILED; others at each sample.

    Args:
        planes, state: scratch for each triangle.
    """
    height, width = background.shape[:2]
    row = np.empty(3 * width, np.float32)
    state[:] = 0  # 0: no planes yet, 1: seen from the front, 2: from behind
    zero, one, quarter = np.float32(0.0), np.float32(1.0), np.float32(0.25)
    for py in range(height):
        for px in range(width):
            x, y = SAMPLES * px, SAMPLES * py
            f = owner[y, x]
            uniform = False
            kin = zero
            if f >= 0:
                kin = materials[material_of[f], KIN]
                uniform = materials[material_of[f], DETAILED] == zero
            red, green, blue, n_hit = zero, zero, zero, 0
            for sub in range(SAMPLES * SAMPLES):
                other = owner[y + (sub >> 1), x + (sub & 1)]
                if other >= 0:
                    if state[other] == 0:
                        state[other] = 2 if _make_planes(points, attributes, triangles, other, planes) else 1
                    if materials[material_of[other], KIN] != kin:
                        uniform = False
                else:
                    uniform = False
            if uniform:
                fx, fy = np.float32(x) + np.float32(0.5), np.float32(y) + np.float32(0.5)
                red, green, blue = _colour(fx, fy, f, material_of[f], state[f] == 2, planes, materials, texels, lights)
            else:
                for sub in range(SAMPLES * SAMPLES):
                    sy, sx = y + (sub >> 1), x + (sub & 1)
                    f = owner[sy, sx]
                    if f >= 0:
                        r, g, b = _colour(
                            np.float32(sx),
                            np.float32(sy),
                            f,
                            material_of[f],
                            state[f] == 2,
                            planes,
                            materials,
                            texels,
                            lights,
                        )
                        red, green, blue = red + r, green + g, blue + b
                        n_hit += 1
                rest = np.float32(SAMPLES * SAMPLES - n_hit)
                red = (red + rest * background[py, px, 0]) * quarter
                green = (green + rest * background[py, px, 1]) * quarter
                blue = (blue + rest * background[py, px, 2]) * quarter
            row[3 * px] = red
            row[3 * px + 1] = green
            row[3 * px + 2] = blue
        line = picture[py].reshape(-1)
        for n in range(3 * width):
            # A soft shoulder keeps highlights from clipping.
            linear = max(row[n], zero)
            toned = min(linear * np.float32(1.12) / (one + np.float32(0.12) * linear), one)
            line[n] = np.uint8(np.int32(math.sqrt(toned) * np.float32(255.0) + np.float32(0.5)))


@njit(cache=True, nogil=True, fastmath=True)
def place(
    points: Float32[np.ndarray, "v 3"],
    head: Float32[np.ndarray, " v"],
    rotation: Float32[np.ndarray, "3 3"],
    pivot_after: Float32[np.ndarray, " 3"],
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
            turned = rotation[axis, 0] * x + rotation[axis, 1] * y + rotation[axis, 2] * z + pivot_after[axis]
            placed[v, axis] = share * turned + (np.float32(1.0) - share) * (points[v, axis] + sway[axis])
        scale = camera[0] * camera[1] / (camera[1] + placed[v, 2])
        # Pixel centres are integers: sample s of a pixel p lies at p + (s - 1/2) / 2.
        screen[v, 0] = placed[v, 0] * scale + camera[2] * camera[4] - np.float32(0.5)
        screen[v, 1] = placed[v, 1] * scale + camera[3] * camera[4] - np.float32(0.5)
        screen[v, 2] = placed[v, 2]
