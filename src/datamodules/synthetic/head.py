"""A synthetic person: mesh, textures and lights of one identity, and the pictures of it."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Float32, Float64, Int32, UInt8

from src.datamodules.synthetic import anatomy, raster, textures
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
from src.datamodules.synthetic.pose import Pose, rotations
from src.datamodules.synthetic.regions import LOWER_LID, N_POINTS, UPPER_LID, mirrored
from src.datamodules.synthetic.skin import paint_skin
from src.face.average_face import average_face

UNIT = 0.2485  # distance between the pupils over the side of the picture
EYES_AT = (0.5, 0.39)  # where the point between the eyes lies when the head is at rest
CAMERA_DISTANCE = 11.0
_EYES_APART, _CHIN_BELOW_EYES = 0.966, 1.745  # of the average face, from the middle of the eyes

Bend = Callable[[Float64[np.ndarray, "*n 3"]], Float64[np.ndarray, "*n 3"]]

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


class SyntheticHead:
    """One person, ready to be drawn at one size; of the arrays that it holds, drawing fills in normals, so that threads need one each.

    Args:
        seed: who it is (see `src.datamodules.synthetic.identity`).
        size: side of the pictures in pixels; textures are painted as finely as they can be seen.
    """

    def __init__(self, seed: int, size: int = 128) -> None:
        self.identity: Identity = draw_identity(seed)
        self.size = size
        bend = _bender(self.identity)
        face = rest_face(bend(average_face()))
        self.eyeballs = {side: fit_eyeball(face, side) for side in ("left", "right")}
        self.face = seat_lids(face, self.eyeballs)
        self.mesh: Mesh = assemble(self._parts(bend), MATERIALS)
        assert len(self.mesh.triangles) < 2**15, "the rasteriser numbers triangles with 16 bits"
        self._materials, self._texels = self._painted()
        self._lights = lights(self.identity)
        self._background = paint_backdrop(self.identity, size)
        self._attributes = np.zeros((len(self.mesh.points), raster.N_ATTRIBUTES), np.float32)
        self._attributes[:, [raster.U, raster.V]] = self.mesh.uv
        self._attributes[:, [raster.OPEN, raster.KEY]] = openness_and_key(self.mesh, self.identity, MATERIALS)
        self._eye_index = self._index("eye_left", "eye_right")
        self._jaw_index = self._index("teeth_lower", "tongue")
        self._lash_index = self._index(*(f"lash_{lid}_{side}" for side in self.eyeballs for lid in ("upper", "lower")))

    def _index(self, *parts: str) -> Int32[np.ndarray, " n"]:
        return np.concatenate(
            [np.arange(len(self.mesh.points), dtype=np.int32)[self.mesh.parts[name]] for name in parts]
        )

    def _parts(self, bend: Bend) -> list[Part]:
        who = self.identity
        skull = anatomy.skull()
        skin = np.concatenate([self.face, bend(skull.points[N_POINTS:])])
        around = [*build_hair(who), anatomy.neck_and_shoulders(who.neck_width, who.shoulders), *clothing(who)]
        if not covers_ears(who):
            around += anatomy.ears(who.ear_size, who.ear_stand)
        around = [replace(part, points=bend(part.points)) for part in around]
        inside = [
            *anatomy.eyes(self.eyeballs),
            *anatomy.lid_rims(self.face),
            *anatomy.lashes(self.face),
            *anatomy.mouth(self.face),
        ]
        if who.glasses:
            inside.append(anatomy.glasses(self.eyeballs, self.face, who.glasses_squareness, who.glasses_size))
        return [replace(skull, points=skin), *inside, *around]

    def _painted(self) -> tuple[Float32[np.ndarray, "m c"], UInt8[np.ndarray, "n 4"]]:
        """The material table and all textures in one run of texels."""
        who = self.identity
        fine = int(np.clip(self.size, 48, 400))
        canvas = int(anatomy.CANVAS_SIZE * np.clip(0.4 * self.size, 32, 190))
        skin = paint_skin(who, canvas, scalp_density(who, canvas))
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

    # ---- Drawing -------------------------------------------------------------------------------------------------------------

    def render(self, controls: Controls, pose: Pose) -> UInt8[np.ndarray, "t h w 3"]:
        """Pictures in RGB, one per frame of `controls` and `pose`."""
        return np.concatenate(list(self.stream(controls, pose)))

    def stream(self, controls: Controls, pose: Pose, chunk: int = 32) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
        """The pictures of `render`, `chunk` at a time."""
        for start in range(0, len(pose), chunk):
            part = slice(start, start + chunk)
            yield self._draw(controls[part], pose[part])

    def _draw(self, controls: Controls, pose: Pose) -> UInt8[np.ndarray, "t h w 3"]:
        mesh, single = self.mesh, np.float32
        face = deform(self.face, self.eyeballs, controls)
        balls, eye_normals = self._turned_eyes(controls)
        jaw = self.mesh.points[self._jaw_index].astype(np.float64)
        own = np.concatenate([balls, self._lower_jaw(jaw, controls), self._lashes(face)], axis=1)
        eye = np.concatenate([eye_normals, self._under_lids(balls, face)[..., None]], axis=2)
        grid = self.size * raster.SAMPLES
        pictures = np.empty((len(pose), self.size, self.size, 3), np.uint8)
        raster.draw(
            mesh.points,
            mesh.anchor,
            mesh.follow,
            mesh.head,
            (face - self.face).astype(single),
            np.concatenate([self._eye_index, self._jaw_index, self._lash_index]),
            own.astype(single),
            self._eye_index,
            eye.astype(single),
            pose.rotation().astype(single),
            pose.shift.astype(single),
            pose.sway.astype(single),
            anatomy.NECK_PIVOT.astype(single),
            np.array([UNIT * grid, CAMERA_DISTANCE, *EYES_AT, grid], single),
            self._attributes,
            mesh.triangles,
            mesh.material,
            self._materials,
            self._texels,
            self._lights,
            self._background,
            pictures,
        )
        return pictures

    def _turned_eyes(self, controls: Controls) -> tuple[Float64[np.ndarray, "t e 3"], Float64[np.ndarray, "t e 3"]]:
        """Vertices of both eyeballs, and their normals."""
        rotation, ahead = rotations(controls.gaze_x, controls.gaze_y)[:, None], gaze_direction(controls)[:, None]
        points, normals = [], []
        for side, ball in self.eyeballs.items():
            arm = self.mesh.points[self.mesh.parts[f"eye_{side}"]] - ball.centre
            turned = (rotation * arm[None, :, None, :]).sum(axis=-1)
            # The cornea bulges: near the pupil the surface turns away faster than the eyeball's.
            normal = turned - 0.42 * ball.radius * ahead
            points.append(turned + ball.centre)
            normals.append(normal / np.linalg.norm(normal, axis=-1, keepdims=True))
        return np.concatenate(points, axis=1), np.concatenate(normals, axis=1)

    def _lower_jaw(self, points: Float64[np.ndarray, "n 3"], controls: Controls) -> Float64[np.ndarray, "t n 3"]:
        """Lower teeth and tongue."""
        turned = turn_jaw(np.repeat(points[None], len(controls), axis=0), controls.jaw)
        n_tongue = len(self.mesh.points[self.mesh.parts["tongue"]])
        depth = points[-n_tongue:, 2] - points[-n_tongue:, 2].min()
        raised = controls.tongue[:, None] * smoothstep(depth, 0.45, 0.0)
        turned[:, -n_tongue:, 1] -= 0.16 * raised
        turned[:, -n_tongue:, 2] -= 0.05 * raised
        return turned

    def _lashes(self, face: Float64[np.ndarray, "t 468 3"]) -> Float64[np.ndarray, "t n 3"]:
        """Lashes stand on the rims of the lids and point away from the eyeball."""
        strips = []
        for side, ball in self.eyeballs.items():
            for rings, length, curl in ((UPPER_LID, 0.056, -0.4), (LOWER_LID, 0.038, 0.4)):
                root = face[:, rings[0] if side == "left" else mirrored()[rings[0]]]
                outwards = (root - ball.centre) / ball.radius * [1.15, 1.0, 1.0] + [0.0, curl, -0.2]
                strips += [root - [0, 0, 0.004], root + length * self.identity.lashes**0.5 * outwards]
        return np.concatenate(strips, axis=1)

    def _under_lids(
        self, balls: Float64[np.ndarray, "t e 3"], face: Float64[np.ndarray, "t 468 3"]
    ) -> Float64[np.ndarray, "t e"]:
        """Light on the eyeballs: the upper lids shade them."""
        shade = []
        for points, ball, lid in zip(np.split(balls, 2, axis=1), self.eyeballs.values(), (159, 386), strict=True):
            across = points[..., 0] - ball.centre[0]
            below = points[..., 1] - (face[:, lid, 1, None] + 1.4 * across**2)
            shade.append(
                0.3 + 0.7 * smoothstep(below, -0.01, 0.1) * (0.75 + 0.25 * smoothstep(np.abs(across), 0.24, 0.12))
            )
        return np.concatenate(shade, axis=1)


def _bender(identity: Identity) -> Bend:
    """The map from the average face to this person's, with the head as large and the eyes as high as everyone's."""
    face = identity.shape.bend(average_face())
    left, right = face[[33, 133]].mean(axis=0), face[[263, 362]].mean(axis=0)
    middle = (left + right) / 2 * [0, 1, 0]
    apart, below = right[0] - left[0], face[152, 1] - middle[1]
    scale = 1 / (0.6 * apart / _EYES_APART + 0.4 * below / _CHIN_BELOW_EYES)
    return lambda points: (identity.shape.bend(points) - middle) * scale
