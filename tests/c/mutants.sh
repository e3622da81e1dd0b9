#!/bin/sh
# Puts one fault at a time into a copy of the engine. The tests must find it; a test that cannot fail is worth nothing.
# `make mutants` calls this, with RUNTIME, BUILD, EMULATOR and MAKE.
set -eu
copy=$BUILD/mutant
samples=$(cd "$BUILD" && pwd)/samples
failed=0

# mutant FILE EXPRESSION BUILD PROGRAM WORDS...: changes FILE with sed, makes PROGRAM, and runs it. Its exit code must say "a difference".
mutant()
{
    file=$1 expression=$2 build=$3 program=$4
    shift 4
    rm -rf "$copy" && mkdir "$copy"
    cp -a "$RUNTIME" "$copy/runtime"
    cp -a "$BUILD/$build" "$copy/$build" # the objects of the other files
    sed -i "$expression" "$copy/runtime/$file"
    if cmp -s "$RUNTIME/$file" "$copy/runtime/$file"; then
        echo "mutants: $expression does not change $file any more; write another fault"
        failed=1
        return
    fi
    "$MAKE" -s --no-print-directory RUNTIME="$copy/runtime" BUILD="$copy" "$copy/$build/$program" > "$copy/log" 2>&1 || {
        cat "$copy/log"
        echo "mutants: the mutant of $file does not compile"
        failed=1
        return
    }
    run=
    [ "$build" = arm ] && run=$EMULATOR
    code=0
    $run "$copy/$build/$program" "$@" > "$copy/log" 2>&1 || code=$?
    case $program$code in
    *0) echo "mutants: NOT found: $expression in $file" && failed=1 ;;
    kernels2) echo "mutants: not run here: $(tail -n 1 "$copy/log")" ;;
    *) echo "mutants: found: $expression in $file" ;;
    esac
}

mutant kernel_c.c 's/0x33333333u) + /0x33333331u) + /' plain kernels c
mutant kernel_avx2.c 's/FLUSH = 30/FLUSH = 33/' plain kernels avx2
mutant kernel_avx2.c 's/_mm256_srli_epi16(sum, 4)/_mm256_srli_epi16(sum, 5)/' plain kernels avx2
mutant kernel_avx512.c 's/_mm512_xor_si512(w1, one)/_mm512_or_si512(w1, one)/' plain kernels avx512
mutant kernel_neon.c 's/FLUSH = 7/FLUSH = 8/' arm kernels neon
mutant kernel_neon.c 's/veorq_u8(w1, one)/vorrq_u8(w1, one)/' arm kernels neon
mutant load.c 's/class & 8 && column == made->size - 1/class \& 8 \&\& column == made->size - 2/' plain kernels c
mutant load.c 's/outside ? 2 \* pop/outside ? pop/' plain kernels c
mutant units.c 's/pad + size > w->in_columns/pad + size >= w->in_columns/' plain kernels c
mutant elementwise.h 's/v_one(0.25f)/v_one(0.2499f)/' plain kernels c
mutant pool.c 's/atomic_load(&pool->done) < tasks; look++/false; look++/' race threads 300 "$samples"/*.bnext
mutant load.c 's/head\[4\], head\[4\], "the classes/1, MOST_CHANNELS, "the classes/' address fuzz 20 1 "$samples"/*.bnext
mutant workspace.c 's/larger(most->scratch, 2 \* before \* in + in)/larger(most->scratch, in)/' address fuzz 20 1 "$samples"/*.bnext
rm -rf "$copy"
exit $failed
