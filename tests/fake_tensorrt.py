"""A module with exactly the names and signatures that one version of TensorRT has, for builds where that version cannot be.

Copied as `tensorrt.py` (or `tensorrt_rtx.py`) into a folder with `recorded.json`, see tools/record_tensorrt.py, and `lines.json`,
what the builder is to print. Whatever is not recorded does not exist; what is recorded but does nothing here raises. A plan is
the JSON of how it was built.
"""

from __future__ import annotations

import enum
import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def install(place, monkeypatch, module, version, lines=()):
    """Let this process, and those that it starts, find the recorded `version` as `module`; the folder where it stands."""
    place.mkdir(parents=True)
    shutil.copyfile(__file__, place / f"{module}.py")
    shutil.copyfile(HERE / "engines" / f"recorded_{version}.json", place / "recorded.json")
    (place / "lines.json").write_text(json.dumps(list(lines)))
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setenv("PYTHONPATH", str(place))
    monkeypatch.delitem(sys.modules, module, raising=False)
    return place


def _convolution(name, precision="Int8", **more):
    tensor = "{{ Name: {}, Dimensions: [-1,32,8,8], Format/Datatype: {} }}".format
    rest = ', Weights: {"Type": "Int8", "Count": 9216}, Metadata: [ONNX Layer: ' + name + "]"
    return (
        f"Name: {name}, LayerType: CaskConvolution, Inputs: [ {tensor('x', precision)}], Outputs: [ {tensor('y', 'Half')}]{rest}"
    )


convolution_line = _convolution


class Strict:
    """What all classes have: arguments are those recorded, attributes too."""

    _recorded = {"methods": {}, "properties": {}}  # noqa: RUF012

    def __setattr__(self, name, value):
        if not name.startswith("_") and type(self).__module__ == __name__ and self._recorded["properties"].get(name) != "rw":
            raise AttributeError(f"{type(self).__name__} has no attribute {name} that can be set")
        object.__setattr__(self, name, value)

    def __getattr__(self, name):
        if name in self._recorded["properties"]:
            raise NotImplementedError(f"the fake gives no value for {type(self).__name__}.{name}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def _fits(forms, positional, named):
    for form in forms:
        names, needed = [p.rstrip("=") for p in form], {p for p in form if not p.endswith("=")}
        given = dict(zip(names, positional, strict=False)) | named
        if len(positional) <= len(names) and set(given) <= set(names) and needed <= set(given):
            return True
    return False


def _method(owner, name, forms, does):
    def call(self, *positional, **named):
        if not _fits(forms, positional, named):
            raise TypeError(f"{owner}.{name}() takes {forms}, not {positional} {sorted(named)}")
        if does is None:
            raise NotImplementedError(f"the fake does nothing for {owner}.{name}")
        return does(self, *positional, **named)

    return call


class Does:
    """What the fake does for the calls that a build makes."""

    def Builder__init__(self, logger):
        assert isinstance(logger, MADE["ILogger"])
        self._logger = logger

    def Builder_create_network(self, flags=0):
        typed = MADE["NetworkDefinitionCreationFlag"].STRONGLY_TYPED
        assert flags == 1 << int(typed), "networks are strongly typed and nothing else"
        network = MADE["INetworkDefinition"]()
        network._inputs, network._layers = [], 0
        return network

    def Builder_create_builder_config(self):
        config = MADE["IBuilderConfig"]()
        config._flags, config._state, config._profiles = {"TF32"}, {}, []
        return config

    def Builder_create_optimization_profile(self):
        profile = MADE["IOptimizationProfile"]()
        profile._shapes = {}
        return profile

    def Builder_build_serialized_network(self, network, config):
        severity = MADE["ILogger"].Severity
        for line in json.loads((HERE / "lines.json").read_text()):
            self._logger.log(severity.VERBOSE, line)
        built = {"flags": sorted(config._flags), "profiles": config._profiles} | config._state
        level = config.__dict__.get("hardware_compatibility_level")
        built |= {"verbosity": config.profiling_verbosity.name, "level": level.name if level is not None else None}
        if any(
            low > best or best > high for p in config._profiles for s in p.values() for low, best, high in zip(*s, strict=True)
        ):
            self._logger.log(severity.ERROR, "IBuilder::build: Error Code 4: API Usage Error (a profile is inconsistent)")
            return None
        return MADE["IHostMemory"](json.dumps(built).encode())

    def INetworkDefinition_get_input(self, index):
        return self._inputs[index]

    def IOptimizationProfile_set_shape(self, input, min, opt, max):
        self._shapes[input] = [list(min), list(opt), list(max)]

    def IBuilderConfig_add_optimization_profile(self, profile):
        self._profiles.append(profile._shapes)
        return len(self._profiles) - 1

    def IBuilderConfig_set_flag(self, flag):
        assert isinstance(flag, MADE["BuilderFlag"])
        self._flags.add([name for name, value in RECORDED["enums"]["BuilderFlag"].items() if value == flag][-1])  # not an alias

    def IBuilderConfig_get_flag(self, flag):
        return flag.name in self._flags

    def IBuilderConfig_set_memory_pool_limit(self, pool, pool_size):
        assert isinstance(pool, MADE["MemoryPoolType"])
        self._state[pool.name] = pool_size

    def IBuilderConfig_set_compute_capability(self, compute_capability, index):
        self._state["capability"] = compute_capability.name
        return index < self.num_compute_capabilities

    def IBuilderConfig_create_timing_cache(self, serialized_timing_cache):
        cache = MADE["ITimingCache"]()
        cache._data = bytes(serialized_timing_cache)
        return cache

    def IBuilderConfig_set_timing_cache(self, cache, ignore_mismatch):
        if cache._data and not cache._data.startswith(b"times of this version") and not ignore_mismatch:
            return False
        self._state["times_before"] = cache._data.decode()
        self._cache = cache
        return True

    def IBuilderConfig_get_timing_cache(self):
        return self._cache

    def ITimingCache_serialize(self):
        return MADE["IHostMemory"](b"times of this version" + self._data[-1:] + b"+")

    def OnnxParser__init__(self, network, logger):
        self._network = network

    def OnnxParser_parse_from_file(self, model):
        import onnx

        graph = onnx.load(model).graph
        for value in graph.input:
            tensor = MADE["ITensor"]()
            sizes = value.type.tensor_type.shape.dim
            tensor.__dict__["name"] = value.name
            tensor.__dict__["shape"] = tuple(size.dim_value if size.HasField("dim_value") else -1 for size in sizes)
            self._network._inputs.append(tensor)
        self._network._layers = len(graph.node)
        return True


VALUES = {
    ("INetworkDefinition", "num_layers"): lambda self: self._layers,
    ("INetworkDefinition", "num_inputs"): lambda self: len(self._inputs),
    ("OnnxParser", "num_errors"): lambda self: 0,
}


def _class(name, recorded):
    body = {"_recorded": recorded, "__module__": __name__}
    for method, forms in recorded["methods"].items():
        key = name + ("" if method == "__init__" else "_") + method
        body[method] = _method(name, method, forms, vars(Does).get(key))
    body |= {attribute: property(value) for (owner, attribute), value in VALUES.items() if owner == name}
    return type(name, (Strict,), body)


MADE = {}
if (HERE / "recorded.json").is_file():
    RECORDED = json.loads((HERE / "recorded.json").read_text())
    __version__ = RECORDED["version"]
    for _name, _found in RECORDED["classes"].items():
        MADE[_name] = _class(_name, _found)
    for _name, _members in RECORDED["enums"].items():
        if _name != "ILogger.Severity":
            MADE[_name] = enum.IntEnum(_name, _members)
    MADE["ILogger"].Severity = enum.IntEnum("Severity", RECORDED["enums"]["ILogger.Severity"])
    MADE["ILogger"].__init__ = lambda self: None
    MADE["IHostMemory"] = type("IHostMemory", (bytes,), {"nbytes": property(len)})
    globals().update(MADE)
