//! Memory that several threads read and write, and the products of the `gemm` crates: the only unsafe code of the room.
//!
//! Blocks of one nest write disjoint elements of the same slot, with any strides, and in-place updates read the slot they
//! write. Neither `chunks_mut` nor a copy at the end of a block expresses that at memory speed, so a slot is seen through a
//! [`Memory`]: a pointer whose every access is checked against the slot's length. What is left to argue is that no element is
//! written while another thread touches it. That is the invariant of `loop_ir`: a nest writes every element at most once, and
//! an element that is both read and written in a dispatch is read and written at the same point, hence by one thread.
#![allow(unsafe_code)]

use bytemuck::{Pod, Zeroable};
use gemm_common::Parallelism;
use std::marker::PhantomData;

/// A cache line; slots are vectors of lines, so that every element type is aligned and no two slots share a line.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Line([u8; 64]);

/// Lines that hold `bytes` bytes, filled with `byte`.
pub fn lines(bytes: usize, byte: u8) -> Vec<Line> {
    vec![Line([byte; 64]); bytes.div_ceil(64)]
}

/// As [`lines`], filled with zeros; nothing when there is not as much memory.
pub fn try_lines(bytes: usize) -> Option<Vec<Line>> {
    let mut out = vec![];
    out.try_reserve_exact(bytes.div_ceil(64)).ok()?;
    out.resize(bytes.div_ceil(64), Line([0; 64]));
    Some(out)
}

/// How an element lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Format {
    F32,
    F16,
    BF16,
    F64,
    I32,
    I64,
    U32,
    U8,
    I8,
    I16,
}

impl Format {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Format::F64 | Format::I64 => 8,
            Format::F32 | Format::I32 | Format::U32 => 4,
            Format::F16 | Format::BF16 | Format::I16 => 2,
            Format::U8 | Format::I8 => 1,
        }
    }
}

/// A piece of memory shared by the threads that run one kernel. Element `i` of a view lies at `i - origin`.
#[derive(Clone, Copy)]
pub struct Memory<'a> {
    start: *mut u8,
    bytes: usize,
    origin: i64,
    /// Element format.
    pub format: Format,
    owner: PhantomData<&'a [Line]>,
}

// SAFETY: a `Memory` is a checked pointer; the module's doc argues why threads never meet on an element.
unsafe impl Send for Memory<'_> {}
// SAFETY: as above.
unsafe impl Sync for Memory<'_> {}

/// A matrix inside a memory, in elements: first element, and distances between rows and columns.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// Where it lies.
    pub memory: Memory<'a>,
    /// First element.
    pub offset: i64,
    /// Distance between rows.
    pub row_stride: i64,
    /// Distance between columns.
    pub col_stride: i64,
}

impl std::fmt::Debug for Memory<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} x {}", self.format, self.bytes / self.format.size())
    }
}

impl<'a> Memory<'a> {
    /// The lines as elements of `format`.
    pub fn new(lines: &'a mut [Line], format: Format) -> Memory<'a> {
        Memory { start: lines.as_mut_ptr().cast(), bytes: lines.len() * 64, origin: 0, format, owner: PhantomData }
    }

    /// The same lines as elements of another format.
    pub fn with_format(self, format: Format) -> Memory<'a> {
        Memory { format, ..self }
    }

    /// The same memory whose first element is called `origin`.
    pub fn with_origin(self, origin: i64) -> Memory<'a> {
        Memory { origin, ..self }
    }

    /// Pointer to element `index` after checking that the `n` elements at that stride are inside.
    #[inline]
    fn span<T: Pod>(&self, index: i64, stride: i64, n: usize) -> *mut T {
        debug_assert_eq!(size_of::<T>(), self.format.size());
        let count = (self.bytes / size_of::<T>()) as i64;
        let first = index - self.origin;
        let last = first + stride * (n as i64 - 1);
        assert!(
            n > 0 && first.min(last) >= 0 && first.max(last) < count,
            "interp: elements {first}..={last} are outside a slot of {count} elements of {:?}",
            self.format
        );
        self.start.cast::<T>().wrapping_offset(first as isize)
    }

    /// Reads `out.len()` elements from `index` on, `stride` apart, converting each.
    #[inline(always)]
    pub fn read<T: Pod, U: Copy>(&self, index: i64, stride: i64, out: &mut [U], convert: impl Fn(T) -> U) {
        if out.is_empty() {
            return;
        }
        let out_len = out.len();
        let from = self.span::<T>(index, stride, out_len);
        // SAFETY: `span` checked that every element read lies inside the slot, which is aligned for any element type. Slices
        // where elements are neighbors, because debug builds check pointer arithmetic step by step.
        unsafe {
            match stride {
                1 => {
                    for (o, &x) in out.iter_mut().zip(std::slice::from_raw_parts(from, out_len)) {
                        *o = convert(x);
                    }
                }
                0 => out.fill(convert(*from)),
                // No slice: other threads may write the elements between.
                _ => {
                    for (i, o) in out.iter_mut().enumerate() {
                        *o = convert(*from.wrapping_offset(i as isize * stride as isize));
                    }
                }
            }
        }
    }

    /// Writes `values` to the elements from `index` on, `stride` apart, converting each.
    #[inline(always)]
    pub fn write<T: Pod, U: Copy>(&self, index: i64, stride: i64, values: &[U], convert: impl Fn(U) -> T) {
        if values.is_empty() {
            return;
        }
        let n = values.len();
        let to = self.span::<T>(index, stride, n);
        // SAFETY: `span` checked that every element written lies inside the slot; no other thread touches them, see the module.
        unsafe {
            if stride == 1 {
                for (o, &x) in std::slice::from_raw_parts_mut(to, n).iter_mut().zip(values) {
                    *o = convert(x);
                }
            } else {
                for (i, &x) in values.iter().enumerate() {
                    *to.wrapping_offset(i as isize * stride as isize) = convert(x);
                }
            }
        }
    }

    /// Writes one value to `n` elements from `index` on, `stride` apart.
    pub fn fill<T: Pod>(&self, index: i64, stride: i64, n: usize, value: T) {
        if n == 0 {
            return;
        }
        let to = self.span::<T>(index, stride, n);
        for i in 0..n {
            // SAFETY: as in `write`.
            unsafe { *to.wrapping_offset(i as isize * stride as isize) = value }
        }
    }

    /// Copies `n` elements of another memory, from `start` on and `stride` apart, to neighbors from `index` on.
    #[inline]
    pub fn copy<T: Pod>(&self, index: i64, n: usize, from: &Memory<'_>, start: i64, stride: i64) {
        if n == 0 {
            return;
        }
        let (to, source) = (self.span::<T>(index, 1, n), from.span::<T>(start, stride, n));
        // SAFETY: `span` checked all elements of both; what is packed is scratch, so that they are different memories, and no other
        // thread touches these elements, see the module.
        unsafe {
            if stride == 1 {
                std::ptr::copy_nonoverlapping(source.cast_const(), to, n);
            } else {
                for i in 0..n as isize {
                    *to.wrapping_offset(i) = *source.wrapping_offset(i * stride as isize);
                }
            }
        }
    }

    /// One element.
    #[inline(always)]
    pub fn get<T: Pod>(&self, index: i64) -> T {
        // SAFETY: `span` checked the element.
        unsafe { *self.span::<T>(index, 1, 1) }
    }

    /// Stores one element.
    #[inline(always)]
    pub fn set<T: Pod>(&self, index: i64, value: T) {
        // SAFETY: `span` checked the element; no other thread touches it, see the module.
        unsafe { *self.span::<T>(index, 1, 1) = value }
    }
}

impl Matrix<'_> {
    /// The matrix with rows and columns exchanged.
    fn transposed(self) -> Self {
        Matrix { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// The same elements of `rows` rows, the last one first.
    fn rows_reversed(self, rows: usize) -> Self {
        Matrix { offset: self.offset + (rows as i64 - 1) * self.row_stride, row_stride: -self.row_stride, ..self }
    }

    /// The same elements of `columns` columns, the last one first.
    fn columns_reversed(self, columns: usize) -> Self {
        self.transposed().rows_reversed(columns).transposed()
    }

    /// Panics unless a `rows` x `cols` matrix is inside its memory.
    fn check<T: Pod>(&self, rows: usize, cols: usize) -> *mut T {
        let (down, right) = (self.row_stride * (rows as i64 - 1), self.col_stride * (cols as i64 - 1));
        self.memory.span::<T>(self.offset + down.min(0) + right.min(0), 1, 1);
        self.memory.span::<T>(self.offset + down.max(0) + right.max(0), 1, 1);
        self.memory.span::<T>(self.offset, 1, 1)
    }
}

/// `dst = alpha * dst + beta * a * b` of one type, as the `gemm` crates spell it: sizes `m`, `n` and `k`, then each matrix with the
/// strides of its columns and rows.
type Gemm<T> =
    unsafe fn(usize, usize, usize, *mut T, isize, isize, bool, *const T, isize, isize, *const T, isize, isize, T, T, bool, bool, bool, Parallelism);

/// A float type that the interpreter multiplies matrices of.
pub trait Scalar: Pod + Send + Sync {
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;

    /// The product for this processor.
    fn gemm() -> Gemm<Self>;
}
impl Scalar for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;

    fn gemm() -> Gemm<f32> {
        gemm_f32::gemm::f32::get_gemm_fn()
    }
}
impl Scalar for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;

    fn gemm() -> Gemm<f64> {
        gemm_f64::gemm::f64::get_gemm_fn()
    }
}

/// `dst = a * b` with `a` m x k and `b` k x n, on the calling thread.
pub fn product<T: Scalar>(m: usize, n: usize, k: usize, dst: Matrix<'_>, a: Matrix<'_>, b: Matrix<'_>) {
    if m == 0 || n == 0 {
        return;
    }
    // The kernels are fast along columns, hence a result whose rows are contiguous is computed as its transpose.
    if dst.col_stride.abs() < dst.row_stride.abs() {
        forward::<T>(n, m, k, dst.transposed(), b.transposed(), a.transposed());
    } else {
        forward::<T>(m, n, k, dst, a, b);
    }
}

/// As [`product`], with every axis taken in the direction in which the result, and along `k` the left operand, rises in memory.
fn forward<T: Scalar>(m: usize, n: usize, k: usize, mut dst: Matrix<'_>, mut a: Matrix<'_>, mut b: Matrix<'_>) {
    if dst.row_stride < 0 {
        (dst, a) = (dst.rows_reversed(m), a.rows_reversed(m));
    }
    if dst.col_stride < 0 {
        (dst, b) = (dst.columns_reversed(n), b.columns_reversed(n));
    }
    if k > 0 && a.col_stride < 0 {
        (a, b) = (a.columns_reversed(k), b.rows_reversed(k));
    }
    multiply::<T>(m, n, k, dst, a, b);
}

/// The product itself, within bounds.
fn multiply<T: Scalar>(m: usize, n: usize, k: usize, dst: Matrix<'_>, a: Matrix<'_>, b: Matrix<'_>) {
    let to = dst.check::<T>(m, n);
    if k == 0 {
        for i in 0..m as i64 {
            dst.memory.fill(dst.offset + i * dst.row_stride, dst.col_stride, n, T::ZERO);
        }
        return;
    }
    let (left, right) = (a.check::<T>(m, k), b.check::<T>(k, n));
    let strides = |m: Matrix<'_>| (m.col_stride as isize, m.row_stride as isize);
    let ((dst_cs, dst_rs), (a_cs, a_rs), (b_cs, b_rs)) = (strides(dst), strides(a), strides(b));
    let (left, right, zero, one) = (left.cast_const(), right.cast_const(), T::ZERO, T::ONE);
    // SAFETY: `check` found the corners of all three matrices inside their slots, hence all elements; the result is written
    // by this thread alone, see the module.
    unsafe {
        T::gemm()(m, n, k, to, dst_cs, dst_rs, false, left, a_cs, a_rs, right, b_cs, b_rs, zero, one, false, false, false, Parallelism::None);
    }
}

/// Runs `f` with the widest vectors that this processor surely has, so that its loops, inlined here, use them.
#[inline(always)]
pub fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn wide<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the features were just detected.
            return unsafe { wide(f) };
        }
    }
    f()
}
