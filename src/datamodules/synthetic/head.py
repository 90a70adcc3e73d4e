"""A synthetic person: mesh, textures and lights of one identity, and the pictures of it."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

from src.datamodules.synthetic import anatomy, raster, textures
from src.datamodules.synthetic.average_face import average_face
from src.datamodules.synthetic.backdrop import paint_backdrop
from src.datamodules.synthetic.clothes import clothing
from src.datamodules.synthetic.expression import (
    Controls,
    deform,
    fit_eyeball,
    gaze_direction,
    rest_face,
    seat_lids,
    turn_jaw,
)
from src.datamodules.synthetic.hair import build_hair, covers_ears, paint_hair, scalp_density
from src.datamodules.synthetic.identity import Identity, draw_identity
from src.datamodules.synthetic.light import lights, openness_and_key
from src.datamodules.synthetic.mesh import Mesh, Part, assemble, smoothstep
from src.datamodules.synthetic.regions import LOWER_LID, N_POINTS, UPPER_LID, mirrored

UNIT = 0.2485  # distance between the pupils over the side of the picture
EYES_AT = (0.5, 0.39)  # where the point between the eyes lies when the head is at rest
CAMERA_DISTANCE = 11.0
N_LANDMARKS = 478

MATERIALS = (
    "skin",
    "ear",
    "eye",
    "teeth",
    "flesh",
    "lash_upper",
    "lash_lower",
    "hair",
    "hair_inner",
    "hair_wisps",
    "cloth",
    "scarf",
    "frame",
)
# Shading of each material: how far light reaches round the terminator (R, G, B), broad and sharp gloss, sharpness (the lobe's exponent is
# 16 * 2^n), band across strands, rim light, cut-out, two-sided, detailed.
_LOOKS = {
    "skin": (0.42, 0.24, 0.18, 0.075, 0.05, 1, 0.0, 0.30, 0, 0, 0),
    "ear": (0.4, 0.22, 0.16, 0.05, 0.0, 1, 0.0, 0.35, 0, 1, 0),
    "eye": (0.35, 0.3, 0.3, 0.02, 1.1, 5, 0.0, 0.0, 0, 0, 1),
    "teeth": (0.4, 0.36, 0.33, 0.05, 0.25, 2, 0.0, 0.0, 0, 1, 1),
    "flesh": (0.4, 0.25, 0.2, 0.03, 0.1, 2, 0.0, 0.0, 0, 1, 0),
    "lash_upper": (0.2, 0.2, 0.2, 0.0, 0.0, 0, 0.0, 0.0, 1, 1, 1),
    "lash_lower": (0.2, 0.2, 0.2, 0.0, 0.0, 0, 0.0, 0.0, 1, 1, 1),
    "hair": (0.35, 0.35, 0.35, 0.004, 0.0, 0, 0.028, 0.45, 1, 0, 0),
    "hair_inner": (0.35, 0.35, 0.35, 0.004, 0.0, 0, 0.028, 0.45, 1, 1, 0),
    "hair_wisps": (0.4, 0.4, 0.4, 0.004, 0.0, 0, 0.03, 0.6, 1, 0, 0),
    "cloth": (0.2, 0.2, 0.2, 0.012, 0.0, 0, 0.0, 0.3, 0, 0, 0),
    "scarf": (0.2, 0.2, 0.2, 0.012, 0.0, 0, 0.0, 0.3, 0, 1, 0),
    "frame": (0.1, 0.1, 0.1, 0.06, 0.15, 3, 0.0, 0.3, 0, 1, 0),
}

_KIN = {"hair_wisps": "hair", "hair_inner": "hair", "ear": "skin"}  # materials that share a pixel as if they were one


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where the head is in every frame: angles in radians, shifts in distances between the pupils."""

    yaw: Float64[np.ndarray, " t"]  # positive: the face turns to the right of the picture
    pitch: Float64[np.ndarray, " t"]  # positive: down
    roll: Float64[np.ndarray, " t"]  # positive: clockwise in the picture
    shift: Float64[np.ndarray, "t 3"]
    sway: Float64[np.ndarray, "t 3"]  # of the shoulders

    def __len__(self) -> int:
        return len(self.yaw)

    def __getitem__(self, frames: slice) -> "Pose":
        return Pose(
            yaw=self.yaw[frames],
            pitch=self.pitch[frames],
            roll=self.roll[frames],
            shift=self.shift[frames],
            sway=self.sway[frames],
        )

    @classmethod
    def still(cls, n_frames: int, yaw: float = 0.0, pitch: float = 0.0) -> "Pose":
        """No motion."""
        zero, at_rest = np.zeros(n_frames), np.zeros((n_frames, 3))
        return cls(yaw=zero + yaw, pitch=zero + pitch, roll=zero, shift=at_rest, sway=at_rest)

    def rotation(self) -> Float64[np.ndarray, "t 3 3"]:
        """Matrices R with x_camera = R x_head."""
        (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (self.yaw, self.pitch, self.roll))
        zero, one = np.zeros_like(cy), np.ones_like(cy)

        def matrix(*rows: tuple[np.ndarray, ...]) -> Float64[np.ndarray, "t 3 3"]:
            return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)

        turn = matrix((cy, zero, -sy), (zero, one, zero), (sy, zero, cy))
        nod = matrix((one, zero, zero), (zero, cp, -sp), (zero, sp, cp))
        tilt = matrix((cr, -sr, zero), (sr, cr, zero), (zero, zero, one))
        return _product(tilt, _product(turn, nod))


def _product(a: Float64[np.ndarray, "*t 3 3"], b: Float64[np.ndarray, "*t n 3"]) -> Float64[np.ndarray, "*t 3 3"]:
    """Matrix product without BLAS, whose last bits may depend on the number of threads."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(axis=-2)


class SyntheticHead:
    """One person, ready to be drawn at one size.

    Args:
        seed: who it is (see `src.datamodules.synthetic.identity`).
        size: side of the pictures in pixels; textures are painted as finely as they can be seen.
    """

    def __init__(self, seed: int, size: int = 128) -> None:
        self.identity: Identity = draw_identity(seed)
        self.size = size
        bend, self._scale, self._middle = _bender(self.identity)
        face = rest_face(bend(average_face()))
        self.eyeballs = {side: fit_eyeball(face, side) for side in ("left", "right")}
        self.face = seat_lids(face, self.eyeballs)
        self.mesh: Mesh = assemble(self._parts(bend), MATERIALS)
        self._materials, self._texels = self._painted()
        self._lights = lights(self.identity)
        self._background = paint_backdrop(self.identity, size)
        self._openness, self._key = openness_and_key(self.mesh, self.identity, MATERIALS)
        samples = raster.SAMPLES * size
        self._depth, self._owner = np.empty((samples, samples), np.float32), np.empty((samples, samples), np.int32)
        self._planes = np.empty((len(self.mesh.triangles), raster.N_ATTRIBUTES, 3), np.float32)
        self._state = np.empty(len(self.mesh.triangles), np.uint8)

    def _parts(self, bend) -> list[Part]:
        who = self.identity
        skull = anatomy.skull()
        around = build_hair(who) if covers_ears(who) else [*anatomy.ears(who.ear_size, who.ear_stand), *build_hair(who)]
        body = [anatomy.neck_and_shoulders(who.neck_width, who.shoulders), *clothing(who)]
        points = bend(skull.points)
        points[:N_POINTS] = self.face
        skull = replace(skull, points=points)
        around = [replace(part, points=bend(part.points)) for part in (*around, *body)]
        inside = [
            *anatomy.eyes(self.eyeballs),
            *anatomy.lid_rims(self.face),
            *anatomy.lashes(self.face),
            *anatomy.mouth(self.face),
        ]
        if who.glasses:
            inside.append(anatomy.glasses(self.eyeballs, self.face, who.glasses_squareness, who.glasses_size))
        return [skull, *inside, *around]

    def _painted(self) -> tuple[Float32[np.ndarray, "m c"], UInt8[np.ndarray, "n 4"]]:
        """The material table and all textures in one run of texels."""
        who = self.identity
        fine = int(np.clip(self.size, 48, 400))
        canvas = int(anatomy.CANVAS_SIZE * np.clip(0.5 * self.size, 32, 190))
        skin = textures.paint_skin(who, canvas, scalp_density(who, canvas))
        cloth = textures.paint_cloth(who, fine)
        hair = paint_hair(who, fine, wisps=False)
        painted = {
            "skin": skin,
            "ear": skin,
            "eye": textures.paint_eye(who, max(fine // 2, 32)),
            "teeth": textures.paint_teeth(who, max(fine // 2, 32)),
            "flesh": textures.paint_flesh(fine),
            "lash_upper": textures.paint_lashes(who, max(fine // 2, 24), "upper"),
            "lash_lower": textures.paint_lashes(who, max(fine // 2, 24), "lower"),
            "hair": hair,
            "hair_inner": hair,
            "hair_wisps": paint_hair(who, fine, wisps=True),
            "cloth": cloth,
            "scarf": textures.paint_plain(who.cloth_second),
            "frame": textures.paint_plain(who.glasses_colour),
        }
        table = np.zeros((len(MATERIALS), raster.N_MATERIAL_COLUMNS), np.float32)
        texels, offsets, end = [], {}, 0
        for row, name in enumerate(MATERIALS):
            texture = painted[name]
            if id(texture) not in offsets:
                offsets[id(texture)] = end
                texels.append(texture.reshape(-1, 4))
                end += texture.shape[0] * texture.shape[1]
            table[row, :3] = offsets[id(texture)], texture.shape[1], texture.shape[0]
            wrap = np.array(_LOOKS[name][:3])
            table[row, raster.WRAP_R : raster.GAIN_R] = wrap
            table[row, raster.GAIN_R : raster.BROAD] = 1 / (1 + wrap)
            table[row, raster.BROAD : raster.KIN] = _LOOKS[name][3:]
            table[row, raster.KIN] = MATERIALS.index(_KIN.get(name, name))
        return table, np.concatenate(texels)

    # ---- Motion --------------------------------------------------------------------------------------------------------------

    def landmarks(self, controls: Controls, pose: Pose) -> Float32[np.ndarray, "t 478 3"]:
        """MediaPipe's points in pixels, exactly where `render` draws them; z in the same unit with mean 0 over the 468 mesh points."""
        face = deform(self.face, self.eyeballs, controls)
        points = np.concatenate([face, self._irises(controls)], axis=1)
        turned = self._placed(points, pose)
        near = CAMERA_DISTANCE / (CAMERA_DISTANCE + turned[..., 2:])
        pixels = np.empty_like(turned)
        pixels[..., :2] = turned[..., :2] * near * (UNIT * self.size) + np.array(EYES_AT) * self.size - 0.5
        pixels[..., 2] = (turned[..., 2] - turned[:, :N_POINTS, 2].mean(axis=1, keepdims=True)) * (UNIT * self.size)
        return pixels.astype(np.float32)

    def _irises(self, controls: Controls) -> Float64[np.ndarray, "t 10 3"]:
        """Centre, right, top, left and bottom of both irises."""
        ahead = gaze_direction(controls)
        right = np.stack([np.cos(controls.gaze_x), np.zeros(len(controls)), np.sin(controls.gaze_x)], axis=1)
        down = np.cross(right, ahead)
        cos, sin = np.cos(anatomy.IRIS_ANGLE), np.sin(anatomy.IRIS_ANGLE)
        rim = [
            ahead,
            cos * ahead + sin * right,
            cos * ahead - sin * down,
            cos * ahead - sin * right,
            cos * ahead + sin * down,
        ]
        directions = np.stack(rim, axis=1)
        return np.concatenate([ball.centre + ball.radius * directions for ball in self.eyeballs.values()], axis=1)

    def _placed(self, points: Float64[np.ndarray, "t n 3"], pose: Pose) -> Float64[np.ndarray, "t n 3"]:
        rotation = pose.rotation()[:, None]
        arm = points - anatomy.NECK_PIVOT
        return (rotation * arm[..., None, :]).sum(axis=-1) + anatomy.NECK_PIVOT + pose.shift[:, None]

    def _vertices(self, face: Float64[np.ndarray, "t 468 3"], controls: Controls) -> Float32[np.ndarray, "t v 3"]:
        """All vertices in the frame of the head."""
        mesh = self.mesh
        moved = np.flatnonzero(mesh.follow)
        points = np.repeat(mesh.points[None], len(face), axis=0)
        delta = (face - self.face).astype(np.float32)
        points[:, moved] += mesh.follow[moved, None] * delta[:, mesh.anchor[moved]]
        for name in ("teeth_lower", "tongue"):
            part = mesh.parts[name]
            points[:, part] = turn_jaw(
                np.repeat(mesh.points[None, part].astype(np.float64), len(face), axis=0), controls.jaw
            )
        tongue = mesh.parts["tongue"]
        tip = smoothstep(mesh.points[tongue, 2] - mesh.points[tongue, 2].min(), 0.45, 0.0)
        points[:, tongue, 1] -= (controls.tongue[:, None] * tip * 0.16).astype(np.float32)
        points[:, tongue, 2] -= (controls.tongue[:, None] * tip * 0.05).astype(np.float32)
        self._turn_eyes(points, controls)
        self._point_lashes(points, face)
        return points

    def _turn_eyes(self, points: Float32[np.ndarray, "t v 3"], controls: Controls) -> None:
        rotation = Pose(
            yaw=controls.gaze_x,
            pitch=controls.gaze_y,
            roll=np.zeros(len(controls)),
            shift=np.zeros(0),
            sway=np.zeros(0),
        ).rotation()
        for side, ball in self.eyeballs.items():
            part = self.mesh.parts[f"eye_{side}"]
            arm = self.mesh.points[part] - ball.centre
            points[:, part] = (rotation[:, None] * arm[None, :, None, :]).sum(axis=-1) + ball.centre

    def _point_lashes(self, points: Float32[np.ndarray, "t v 3"], face: Float64[np.ndarray, "t 468 3"]) -> None:
        for side, ball in self.eyeballs.items():
            for lid, rings, length, curl in (("upper", UPPER_LID, 0.075, -0.9), ("lower", LOWER_LID, 0.05, 0.9)):
                rim = rings[0] if side == "left" else mirrored()[rings[0]]
                root = face[:, rim]
                outwards = (root - ball.centre) / ball.radius + [0.0, curl * 0.45, -0.2]
                outwards[..., 0] *= 1.15
                outwards[..., 1] = np.maximum(outwards[..., 1], -1.2)
                part = self.mesh.parts[f"lash_{lid}_{side}"]
                points[:, part] = np.concatenate(
                    [root + [0, 0, -0.004], root + length * self.identity.lashes**0.5 * outwards * 0.75], axis=1
                )

    # ---- Drawing -------------------------------------------------------------------------------------------------------------

    def render(self, controls: Controls, pose: Pose) -> UInt8[np.ndarray, "t h w 3"]:
        """Pictures in RGB, one per frame of `controls` and `pose`."""
        frames = np.empty((len(pose), self.size, self.size, 3), np.uint8)
        chunk = 32
        for start in range(0, len(pose), chunk):
            part = slice(start, start + chunk)
            self._render_chunk(controls[part], pose[part], frames[part])
        return frames

    def _render_chunk(self, controls: Controls, pose: Pose, frames: UInt8[np.ndarray, "t h w 3"]) -> None:
        mesh = self.mesh
        face = deform(self.face, self.eyeballs, controls)
        local = self._vertices(face, controls)
        eye_openness = self._under_lids(local, face)
        rotation, gaze = pose.rotation(), gaze_direction(controls)
        camera = np.array(
            [UNIT * self.size * raster.SAMPLES, CAMERA_DISTANCE, EYES_AT[0], EYES_AT[1], self.size * raster.SAMPLES],
            np.float32,
        )
        attributes = np.empty((len(mesh.points), raster.N_ATTRIBUTES), np.float32)
        attributes[:, [raster.U, raster.V]] = mesh.uv
        attributes[:, raster.OPEN], attributes[:, raster.KEY] = self._openness, self._key
        screen = np.empty_like(mesh.points)
        placed = np.empty_like(mesh.points)
        for t in range(len(pose)):
            raster.place(
                local[t],
                mesh.head,
                rotation[t].astype(np.float32),
                (pose.shift[t] + anatomy.NECK_PIVOT).astype(np.float32),
                anatomy.NECK_PIVOT.astype(np.float32),
                pose.sway[t].astype(np.float32),
                camera,
                placed,
                screen,
            )
            attributes[:, raster.NX : raster.NZ + 1] = raster.vertex_normals(placed, mesh.triangles)
            for side, ball in self.eyeballs.items():
                part = mesh.parts[f"eye_{side}"]
                # The cornea bulges: near the pupil the surface turns away faster than the eyeball's.
                normal = local[t, part] - (ball.centre + 0.42 * ball.radius * gaze[t])
                normal = (rotation[t] * normal[:, None, :]).sum(axis=-1)
                attributes[part, raster.NX : raster.NZ + 1] = normal / np.linalg.norm(normal, axis=1, keepdims=True)
                attributes[part, raster.OPEN] = attributes[part, raster.KEY] = eye_openness[side][t]
            arguments = (screen, attributes, mesh.triangles, mesh.material, self._materials, self._texels)
            raster.cover(*arguments, self._depth, self._owner)
            raster.shade(*arguments, self._lights, self._owner, self._background, self._planes, self._state, frames[t])

    def _under_lids(
        self, local: Float32[np.ndarray, "t v 3"], face: Float64[np.ndarray, "t 468 3"]
    ) -> dict[str, Float[np.ndarray, "t v"]]:
        """Light on the eyeballs: the upper lid shades them."""
        shade = {}
        for side, ball in self.eyeballs.items():
            eye = local[:, self.mesh.parts[f"eye_{side}"]]
            lid = face[:, 159 if side == "left" else 386, 1][:, None]
            across = eye[..., 0] - ball.centre[0]
            below = eye[..., 1] - (lid + 1.4 * across**2)
            shade[side] = 0.3 + 0.7 * smoothstep(below, -0.01, 0.1) * (
                0.75 + 0.25 * smoothstep(np.abs(across), 0.24, 0.12)
            )
        return shade


def _bender(identity: Identity):
    """The map from the average face to this person's, with the head as large and the eyes as high as everyone's."""
    face = identity.shape.bend(average_face())
    eyes = [face[[33, 133]].mean(axis=0), face[[263, 362]].mean(axis=0)]
    middle = (eyes[0] + eyes[1]) / 2 * [0, 1, 0]
    scale = 1 / (0.6 * (eyes[1][0] - eyes[0][0]) / 0.966 + 0.4 * (face[152, 1] - middle[1]) / 1.745)

    def bend(points: Float64[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 3"]:
        return (identity.shape.bend(points) - middle) * scale

    return bend, scale, middle
