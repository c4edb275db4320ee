# SPDX-License-Identifier: MIT
# Reads the headers of include/dsv3 and prints every breach of the rules of docs/architecture.md, one a line.
#
# A header includes only from floors below its own or from its own top folder. exec carries comm, io and text, the other
# folders of its floor: it is half a floor below them. Words lie in files: text is above io.

function complain(sentence) {
  printf "%s:%d: %s\n", path, FNR, sentence
  breaches++
}

function top_of(name) { return name ~ /\// ? substr(name, 1, index(name, "/") - 1) : "" }

function is_umbrella(name) { return name ~ /^(dsv3|cpu|cuda|io|text|fwd)\.(hpp|cuh)$/ }

function finish_file() {
  if (path == "") return
  if (!saw_pragma) complain("has no #pragma once")
  if (!saw_namespace && !is_umbrella(path) && path != "version.hpp" && path != "base/config.hpp")
    complain("opens no namespace dsv3::inline DSV3_ABI")
  if (lines > 800) complain("has " lines " lines, at most 800 are allowed")
  else if (top == "cuda" && lines > 500) complain("has " lines " lines, at most 500 are allowed; make it a folder")
  if (has_kernel && is_body && !stage) complain("has a kernel and no ruled comment '// ---- kernels ----' before it")
}

function check_include(target,    to) {
  if (is_umbrella(path)) {
    if (path ~ /^(dsv3|cpu|cuda|fwd)\./ && reads_files(target)) complain("needs no files and includes dsv3/" target)
    return
  }
  if (is_umbrella(target)) {
    complain("includes the umbrella dsv3/" target)
    return
  }
  if (target == "version.hpp") return
  to = top_of(target)
  if (!(to in floor)) {
    complain("includes dsv3/" target ", whose folder has no floor")
    return
  }
  if (backend_free[top] && (to == "cpu" || to == "cuda"))
    complain("includes the wing dsv3/" target "; " top "/ knows no backend")
  else if (floor[to] >= floor[top] && to != top)
    complain("includes dsv3/" target ": " to "/ is not below " top "/")
  if (reads_files(target) && !reads_files(path))
    complain("includes dsv3/" target "; it is none of the headers that read files")
  if (target ~ /\.cuh$/ && path !~ /\.cuh$/) complain("is no .cuh and includes dsv3/" target)
}

# Above io/ these headers read files; the rest of the library depends on nothing.
function reads_files(name) {
  return name ~ /^(io|text)\// || name ~ /^model\/(checkpoint|config_file|named_config)\.hpp$/ || \
         name ~ /^train\/(checkpoint|data)\.hpp$/
}

BEGIN {
  floor["base"] = 0
  floor["number"] = floor["tensor"] = 10
  floor["exec"] = 20
  floor["comm"] = floor["io"] = 25
  floor["text"] = 27
  floor["op"] = 30
  floor["cpu"] = floor["cuda"] = 40
  floor["layer"] = 50
  floor["model"] = 60
  floor["train"] = floor["infer"] = 70
  backend_free["op"] = backend_free["layer"] = backend_free["model"] = backend_free["train"] = backend_free["infer"] = 1
}

FNR == 1 {
  finish_file()
  path = FILENAME
  sub(/^.*include\/dsv3\//, "", path)
  top = top_of(path)
  saw_pragma = saw_namespace = has_kernel = is_body = stage = 0
  headers++
  if (top != "" && !(top in floor)) complain("lies in a folder without a floor")
  if ($0 != "// SPDX-License-Identifier: MIT") complain("does not begin with the licence line")
  if (path ~ /\.cuh$/ && top != "cuda" && path != "cuda.cuh") complain("needs nvcc and does not lie in cuda/")
  if (path ~ /(^|[\/_])(fast|new|old|v2|impl2|utils?|helpers?|manager|misc|common)[_.]/)
    complain("has a name that says nothing")
}

{ lines = FNR }

# The order inside a body: configuration, selection, kernels, launch; each where there is something to say.
/^\/\/ -+$/ && top == "cuda" { complain("has a ruled comment without words; with them it has 110 columns at most") }
/^\/\/ ---- (configuration|selection|kernels|launch)( |$)/ {
  at = index("configuration selection     kernels       launch", /selection and launch/ ? "launch" : $3)
  if (at < stage) complain("has " $3 " after what follows it: the order is configuration, selection, kernels, launch")
  stage = at
}
/__global__/ { has_kernel = 1 }
/^struct implementation</ { is_body = 1 }

/^#pragma once$/ { saw_pragma = 1 }
/^namespace dsv3::inline DSV3_ABI/ { saw_namespace = 1 }

/^[ \t]*#[ \t]*include[ \t]*"/ { complain("includes with quotes; write <dsv3/...>") }
/^[ \t]*#[ \t]*include[ \t]*<dsv3\// {
  target = $0
  sub(/^.*<dsv3\//, "", target)
  sub(/>.*$/, "", target)
  check_include(target)
}
/^[ \t]*#[ \t]*include[ \t]*<(cuda|cublas|cub\/|thrust\/|nccl|cooperative_groups|mma)/ {
  if (path !~ /\.cuh$/ && path !~ /^comm\/cuda\//) complain("includes a CUDA header and is no .cuh")
}

/__CUDACC__|__CUDA_ARCH__/ {
  if (path != "base/config.hpp" && top != "number" && top != "cuda")
    complain("asks which compiler is at work; only base/config.hpp and number/ may")
}

END {
  finish_file()
  printf "%d headers read\n", headers
  exit breaches > 0
}
