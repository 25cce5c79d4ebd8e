//! Tensors of nothing: constants, ranges and random numbers as methods of the trace.

use crate::frontend::Trace;
use crate::frontend::call::{Call, Given};
use crate::frontend::tensor::{Operand, Tensor};
use crate::types::{DType, Dim, HostTensor, IntoShape, Shape, TensorType};

/// Tensors that the program makes of nothing.
impl Trace {
    /// A tensor of the program's text. For small tables; large ones are buffers.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let y = Device::cpu().compute([], |t, []| t.constant(&HostTensor::i32(&[2], &[3, 4])))?;
    /// assert_eq!(y.to_string(), "[3 4]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn constant(&self, value: &HostTensor) -> Tensor {
        self.recorder.apply("constant", &[], |b, _| match value.fault() {
            Some(fault) => Err(fault.into()),
            None => b.op(crate::ops::Constant::from_host(value), &[]),
        })
    }

    /// One number everywhere.
    ///
    /// ```
    /// # use inductor::{DType, Device};
    /// let y = Device::cpu().compute([], |t, []| t.full(DType::F32, (2, 2), 0.5))?;
    /// assert_eq!(y.to_string(), "[[0.5 0.5]\n [0.5 0.5]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn full(&self, dtype: DType, shape: impl IntoShape, x: f64) -> Tensor {
        let shape = shape.into_shape();
        self.recorder.apply("full", &[], |b, _| {
            Operand::Number(x).constant(b, dtype)?;
            b.full(dtype, x, shape)
        })
    }

    /// All zeros.
    #[track_caller]
    pub fn zeros(&self, dtype: DType, shape: impl IntoShape) -> Tensor {
        self.full(dtype, shape, 0.0)
    }

    /// All ones.
    #[track_caller]
    pub fn ones(&self, dtype: DType, shape: impl IntoShape) -> Tensor {
        self.full(dtype, shape, 1.0)
    }

    /// A size as a 0-d number, for programs whose sizes are symbols.
    ///
    /// ```
    /// use inductor::{Config, DType, Device, Dim, HostTensor, compile, trace};
    /// let traced = trace("mean", |t| {
    ///     let n = Dim::symbol("n", 1, 100);
    ///     Ok(t.input("x", DType::F32, n.clone()).sum(()) / t.size(DType::F32, n))
    /// })?;
    /// let step = compile(&traced, &Device::cpu(), &Config::default())?;
    /// assert_eq!(step.run(&mut step.init(0)?, [HostTensor::f32(&[3], &[1.0, 2.0, 6.0])])?.loss()?, 3.0);
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn size(&self, dtype: DType, size: impl Into<Dim>) -> Tensor {
        let size = size.into();
        self.recorder.apply("size", &[], |b, _| b.size(&size, dtype))
    }

    /// `0, 1, ...` below `n`.
    ///
    /// ```
    /// # use inductor::{DType, Device};
    /// let y = Device::cpu().compute([], |t, []| t.iota(DType::I32, 4))?;
    /// assert_eq!(y.to_string(), "[0 1 2 3]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn iota(&self, dtype: DType, n: impl Into<Dim>) -> Tensor {
        let shape = Shape::new(vec![n.into()]);
        self.recorder.apply("iota", &[], |b, _| b.iota(dtype, shape, 0))
    }

    /// `start, start + step, ...` below `end`.
    ///
    /// ```
    /// # use inductor::{DType, Device};
    /// let y = Device::cpu().compute([], |t, []| t.arange(DType::F32, 1.0, 2.0, 0.25))?;
    /// assert_eq!(y.to_string(), "[1.   1.25 1.5  1.75]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn arange(&self, dtype: DType, start: f64, end: f64, step: f64) -> Tensor {
        let number = |x: f64| -> Given {
            let whole = !dtype.is_float() && x.fract() == 0.0;
            if whole { (x as i64).into() } else { x.into() }
        };
        let call = self.call("arange.start_step").with("start", number(start)).with("end", number(end)).with("step", number(step));
        call.with("dtype", dtype).one()
    }

    /// `n` numbers from `start` to `end` inclusive, f32.
    ///
    /// ```
    /// # use inductor::Device;
    /// let y = Device::cpu().compute([], |t, []| t.linspace(0.0, 1.0, 5))?;
    /// assert_eq!(y.to_string(), "[0.   0.25 0.5  0.75 1.  ]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn linspace(&self, start: f64, end: f64, n: i64) -> Tensor {
        self.call("linspace.default").with("start", start).with("end", end).with("steps", n).one()
    }

    /// The identity matrix of `n` rows.
    ///
    /// ```
    /// # use inductor::{DType, Device};
    /// let y = Device::cpu().compute([], |t, []| t.eye(DType::F32, 2))?;
    /// assert_eq!(y.to_string(), "[[1. 0.]\n [0. 1.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn eye(&self, dtype: DType, n: impl Into<Dim>) -> Tensor {
        self.call("eye.default").with("n", n.into()).with("dtype", dtype).one()
    }

    /// Uniform f32 numbers in `0..1`.
    ///
    /// ```
    /// # use inductor::Device;
    /// let y = Device::cpu().compute([], |t, []| t.rand(1000).mean(()).gt(0.4))?;
    /// assert_eq!(y.to_string(), "True");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn rand(&self, shape: impl IntoShape) -> Tensor {
        self.key().uniform(shape)
    }

    /// Standard normal f32 numbers.
    ///
    /// ```
    /// # use inductor::Device;
    /// let y = Device::cpu().compute([], |t, []| t.randn(1000).std(()).gt(0.9))?;
    /// assert_eq!(y.to_string(), "True");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn randn(&self, shape: impl IntoShape) -> Tensor {
        self.key().normal(shape)
    }

    /// Uniform integers in `low..high`, i32.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let y = Device::cpu().compute([], |t, []| t.randint(2, 5, 1000).isin(&t.constant(&HostTensor::i32(&[3], &[2, 3, 4]))).all(()))?;
    /// assert_eq!(y.to_string(), "True");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn randint(&self, low: i64, high: i64, shape: impl IntoShape) -> Tensor {
        let call = self.call("randint.low").with("low", low).with("high", high).with("size", shape.into_shape());
        call.with("dtype", DType::I32).one()
    }

    /// The integers below `n` in random order, i32.
    ///
    /// ```
    /// # use inductor::Device;
    /// let y = Device::cpu().compute([], |t, []| t.randperm(5).sort(0, false).0)?;
    /// assert_eq!(y.to_string(), "[0 1 2 3 4]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn randperm(&self, n: impl Into<Dim>) -> Tensor {
        self.call("randperm.default").with("n", n.into()).with("dtype", DType::I32).one()
    }

    fn call(&self, name: &'static str) -> Call {
        Call::new(&self.recorder, name)
    }
}

/// Tensors of the shape of another.
impl Tensor {
    /// Zeros of this dtype and shape.
    #[track_caller]
    pub fn zeros_like(&self) -> Tensor {
        self.full_like(0.0)
    }

    /// Ones of this dtype and shape.
    #[track_caller]
    pub fn ones_like(&self) -> Tensor {
        self.full_like(1.0)
    }

    /// One number, of this dtype and shape.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[-1.0, 0.0, 2.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.full_like(7.0))?;
    /// assert_eq!(y.to_string(), "[7. 7. 7.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn full_like(&self, x: impl Into<Operand>) -> Tensor {
        let (x, TensorType { dtype, shape }) = (x.into(), self.ty.clone());
        self.recorder.apply("full_like", &[self], |b, _| {
            let number = x.constant(b, dtype)?;
            b.broadcast_to(number, &shape)
        })
    }
}
