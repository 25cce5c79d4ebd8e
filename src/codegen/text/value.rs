//! Statements of a body as WGSL, computed on demand and once per lane.

use super::emit::{Emitter, Ex, deepest};
use super::spell;
use super::storage::{Element, Kind};
use crate::forms::{Lane, owns_words};
use crate::loop_ir::{BufferId, IndexExpr, Instr, Number, Val, Write, naive};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, per_word};

impl Emitter<'_> {
    /// The value of a statement in a lane, as a name or a literal.
    pub fn value(&mut self, v: Val, lane: usize) -> Result<Ex, String> {
        if let Some(known) = self.computed(v.0, lane) {
            return Ok(known);
        }
        let nest = self.unit.nest;
        let stmt = nest.stmt(v);
        let dtype = nest.dtype(v);
        let kind = self.unit.kind(dtype)?;
        let e = match &stmt.instr {
            Instr::Const(n) => {
                let text = spell::constant(self, kind, *n)?;
                self.bind(Ex::global(text), "k")
            }
            Instr::Index(_) | Instr::Call(..) | Instr::Cast(_) | Instr::Bitcast(_) | Instr::Load { mask: Some(_), .. }
                if self.number(v, lane).is_some() =>
            {
                let number = self.number(v, lane).expect("just seen");
                let text = spell::constant(self, kind, number)?;
                self.bind(Ex::global(text), "k")
            }
            Instr::Index(e) => {
                let at = self.in_lane(e, lane);
                let at = self.index(&at, lane)?;
                let text = spell::from_index(kind, &at.text);
                self.bind(Ex { text, depth: at.depth }, "v")
            }
            Instr::Load { buffer, index, mask } => self.load(*buffer, index, *mask, kind, lane)?,
            Instr::Call(f, args) => self.call(v, *f, args, lane)?,
            Instr::Cast(x) => {
                let from = nest.dtype(*x);
                let x = self.value(*x, lane)?;
                let text = spell::cast(self, from, dtype, &x.text)?;
                self.bind(Ex { text, depth: x.depth }, "v")
            }
            Instr::Bitcast(x) => {
                let from = nest.dtype(*x);
                let x = self.value(*x, lane)?;
                let text = spell::bitcast(self, from, dtype, &x.text)?;
                self.bind(Ex { text, depth: x.depth }, "v")
            }
            Instr::Bound { .. } => self.bound(v, kind, lane)?,
            Instr::Scan(combiner, x) => self.running(v, *combiner, *x, lane)?,
            Instr::Reduce(..) => return Err(format!("%{}: a reduction is used before it is complete", v.0)),
            Instr::Contract { .. } => return Err(format!("%{}: a contraction is used outside attention", v.0)),
            Instr::Sort { .. } => return Err(format!("%{}: a sort is used outside a sort kernel", v.0)),
            Instr::Proj(of, k) => return Err(format!("%{}: result {k} of %{} is used before it is complete", v.0, of.0)),
        };
        self.set_computed(v.0, lane, &e);
        Ok(e)
    }

    /// The number that a value is in a lane, where it is one. The shader gets what the definition gives: compilers fold constants by
    /// rules of their own, and refuse some.
    fn number(&mut self, v: Val, lane: usize) -> Option<Number> {
        if let Some(known) = self.numbers.get(&(v.0, lane)) {
            return *known;
        }
        let nest = self.unit.nest;
        let constant = |e: &IndexExpr| self.in_lane(e, lane).as_constant().and_then(Dim::as_int);
        let found = match &nest.stmt(v).instr {
            Instr::Const(n) => Some(*n),
            Instr::Index(e) => constant(e).map(|n| Number::new(nest.dtype(v), n as f64)),
            // The mask cannot hold there, and the shader would not be valid.
            Instr::Load { index, mask: Some(_), .. } => constant(index).filter(|n| *n < 0).map(|_| Number::new(nest.dtype(v), 0.0)),
            Instr::Call(..) | Instr::Cast(_) | Instr::Bitcast(_) => {
                let operands: Option<Vec<Number>> = nest.stmt(v).instr.operands().into_iter().map(|o| self.number(o, lane)).collect();
                operands.and_then(|operands| naive::fold(nest, v, &operands))
            }
            _ => None,
        };
        self.numbers.insert((v.0, lane), found);
        found
    }

    fn call(&mut self, v: Val, f: ScalarFn, args: &[Val], lane: usize) -> Result<Ex, String> {
        if f == ScalarFn::Philox
            && let Some(word) = self.random_word(args, lane)?
        {
            return Ok(word);
        }
        let nest = self.unit.nest;
        let of = nest.dtype(*args.last().unwrap_or(&v));
        if let Some(narrow) = self.narrow_comparison(f, of, args, lane)? {
            return Ok(narrow);
        }
        if let Some(inside) = self.both_ends(f, args, lane)? {
            return Ok(inside);
        }
        let mut operands = args.iter().map(|&a| self.value(a, lane)).collect::<Result<Vec<_>, _>>()?;
        if spell::is_simplified(f) && of.is_float() {
            self.hide_operands(f, of, args, &mut operands)?;
        }
        let texts: Vec<&str> = operands.iter().map(|o| o.text.as_str()).collect();
        let text = match self.rough_exp.contains(&v) {
            true => format!("exp2({} * 1.44269504f)", texts[0]),
            false => spell::call(self, f, of, &texts)?,
        };
        let text = spell::wrap(nest.dtype(v), text);
        Ok(self.bind(Ex { text, depth: deepest(&operands) }, "v"))
    }

    /// Hides literal zeros, infinities and NaN from the driver, and the second of two equal operands of a difference or quotient.
    fn hide_operands(&mut self, f: ScalarFn, dtype: DType, args: &[Val], operands: &mut [Ex]) -> Result<(), String> {
        let kind = self.unit.kind(dtype)?;
        for (&arg, operand) in args.iter().zip(&mut *operands) {
            if let Some(n) = self.literal(arg)
                && (n.as_f64() == 0.0 || !n.as_f64().is_finite())
            {
                operand.text = spell::opaque(self, kind, Ok(n));
            }
        }
        if let [x, y] = operands
            && matches!(f, ScalarFn::Sub | ScalarFn::Div)
            && x.text == y.text
        {
            y.text = spell::opaque(self, kind, Err(&x.text));
        }
        Ok(())
    }

    /// The number that a statement is, through conversions.
    fn literal(&self, v: Val) -> Option<Number> {
        let stmt = self.unit.nest.stmt(v);
        match stmt.instr {
            Instr::Const(n) => Some(n),
            Instr::Cast(from) if stmt.dtype.is_float() => Some(Number::new(stmt.dtype, self.literal(from)?.as_f64())),
            _ => None,
        }
    }

    /// A comparison of i64 values that fit 32 bits, made in 32 bits.
    fn narrow_comparison(&mut self, f: ScalarFn, dtype: DType, args: &[Val], lane: usize) -> Result<Option<Ex>, String> {
        if dtype != DType::I64 || !f.row().predicate || args.len() != 2 {
            return Ok(None);
        }
        let [Some(x), Some(y)] = [self.narrow(args[0], lane)?, self.narrow(args[1], lane)?] else { return Ok(None) };
        let text = spell::call(self, f, DType::I32, &[&x.text, &y.text])?;
        Ok(Some(self.bind(Ex { text, depth: x.depth.max(y.depth) }, "v")))
    }

    /// `0 <= x && x < n` as one comparison: as an unsigned number, what is below zero is above every size.
    fn both_ends(&mut self, f: ScalarFn, args: &[Val], lane: usize) -> Result<Option<Ex>, String> {
        let nest = self.unit.nest;
        let compared = |v: Val, with: ScalarFn| match &nest.stmt(v).instr {
            Instr::Call(f, args) if *f == with && nest.dtype(args[0]) == DType::I32 => Some((args[0], args[1])),
            _ => None,
        };
        let ([low, high], ScalarFn::LogicalAnd) = (args, f) else { return Ok(None) };
        let (Some((x, zero)), Some((y, size))) = (compared(*low, ScalarFn::Ge), compared(*high, ScalarFn::Lt)) else { return Ok(None) };
        let is_size = matches!(&nest.stmt(size).instr, Instr::Index(e) if e.as_constant().is_some_and(|n| n.range().0 >= 0));
        if x != y || !is_size || self.number(zero, lane).map(Number::as_i64) != Some(0) || self.number(x, lane).is_some() {
            return Ok(None);
        }
        let (x, size) = (self.value(x, lane)?, self.value(size, lane)?);
        let text = format!("(u32({}) < u32({}))", x.text, size.text);
        Ok(Some(self.bind(Ex { text, depth: x.depth.max(size.depth) }, "v")))
    }

    /// An i64 value as i32, where its range is known to fit.
    fn narrow(&mut self, v: Val, lane: usize) -> Result<Option<Ex>, String> {
        let nest = self.unit.nest;
        Ok(match nest.stmt(v).instr {
            Instr::Const(n) if i32::try_from(n.as_i64()).is_ok() => Some(Ex::global(spell::constant(self, Kind::I32, n)?)),
            Instr::Cast(from) if matches!(nest.dtype(from), DType::I32 | DType::I16 | DType::I8 | DType::U8 | DType::Bool) => {
                let x = self.value(from, lane)?;
                Some(Ex { text: spell::cast(self, nest.dtype(from), DType::I32, &x.text)?, depth: x.depth })
            }
            _ => None,
        })
    }

    /// Random bits of a known element: neighboring lanes share one block of four words.
    fn random_word(&mut self, args: &[Val], lane: usize) -> Result<Option<Ex>, String> {
        let [k0, k1, index] = args else { return Ok(None) };
        let mut position = *index;
        while let Instr::Cast(from) = self.unit.nest.stmt(position).instr {
            position = from;
        }
        let Instr::Index(e) = &self.unit.nest.stmt(position).instr else { return Ok(None) };
        let (at, four) = (self.in_lane(e, lane), Dim::int(4));
        let Some(word) = at.modulo(&four).as_constant().and_then(Dim::as_int) else { return Ok(None) };
        let counter = self.index(&at.div(&four), lane)?;
        let (k0, k1) = (self.value(*k0, lane)?, self.value(*k1, lane)?);
        let block = self.helper("philox_block_");
        let depth = deepest([&counter, &k0, &k1]);
        let block = self.bind(Ex { text: format!("{block}({}, {}, {})", k0.text, k1.text, counter.text), depth }, "q");
        Ok(Some(Ex { text: format!("{}.{}", block.text, component(&format!("{word}u"))?), depth: block.depth }))
    }

    /// The clamped index, and the check as a statement beside it.
    fn bound(&mut self, v: Val, kind: Kind, lane: usize) -> Result<Ex, String> {
        let Instr::Bound { index, size, mask, code } = &self.unit.nest.stmt(v).instr else { unreachable!("asked for bounds only") };
        let number = self.number(*index, lane).map(Number::as_i64);
        let mask = mask.map(|m| self.value(m, lane)).transpose()?;
        if let (Some(n), Some(size)) = (number, size.as_int()) {
            let depth = self.place(0);
            if !(0..size).contains(&n) {
                self.refuse("true", mask.as_ref(), *code, depth);
            }
            self.set_checked(v, lane, depth);
            let clamped = Number::Int(n.clamp(0, (size - 1).max(0)));
            return Ok(Ex::global(spell::constant(self, kind, clamped)?));
        }
        let (x, size) = (self.value(*index, lane)?, self.size(size));
        let key = format!("bound {} {} {} {code}", x.text, size.text, mask.as_ref().map_or("", |m| &m.text));
        if let Some(known) = self.known(&key) {
            self.set_checked(v, lane, known.depth);
            return Ok(known);
        }
        // An index below zero is above every size when read as unsigned. (The software adapter's signed comparisons of 64-bit
        // integers widened from 32 bits come out wrong, its unsigned ones do not.)
        let (test, top) = (beyond(number, kind, &x.text, &size.text), format!("max({}, 1u) - 1u", size.text));
        let depth = self.refuse(&test, mask.as_ref(), *code, x.depth.max(size.depth));
        let inside = match (number, kind) {
            (Some(n), _) => spell::from_index(kind, &format!("min({}u, {top})", n.clamp(0, u32::MAX as i64))),
            (None, Kind::I64) => format!("i64(min(u64({}), u64({top})))", x.text),
            (None, _) => format!("clamp({}, {}, {}({top}))", x.text, kind.zero(), kind.wgsl()),
        };
        let name = self.fresh("v");
        self.line_at(depth, format!("let {name} = {inside};"));
        let e = Ex { text: name, depth };
        self.remember(key, &e);
        self.set_checked(v, lane, depth);
        Ok(e)
    }

    /// Sets the status word where `test` and the mask hold. Gives the depth of the statement.
    fn refuse(&mut self, test: &str, mask: Option<&Ex>, code: u32, depth: usize) -> usize {
        let depth = self.place(mask.map_or(depth, |m| m.depth.max(depth)));
        let test = mask.map_or(test.to_string(), |m| format!("{} && {test}", m.text));
        self.line_at(depth, format!("if ({test}) {{ atomicMax(&status, {code}u); }}"));
        depth
    }

    fn load(&mut self, id: BufferId, index: &IndexExpr, mask: Option<Val>, kind: Kind, lane: usize) -> Result<Ex, String> {
        let at = self.in_lane(index, lane);
        let (word, part) = self.fetch(id, &at, lane)?;
        let Some(mask) = mask else {
            // Other elements may be in the same word.
            let word = if part.is_some() { self.bind(word, "w") } else { word };
            let depth = word.depth.max(part.as_ref().map_or(0, |p| p.depth));
            let text = self.decode(id, &word.text, part.as_ref(), kind)?;
            return Ok(self.bind(Ex { text, depth }, "v"));
        };
        let mask = self.value(mask, lane)?;
        let text = self.decode(id, &word.text, part.as_ref(), kind)?;
        let key = format!("{} ? {text}", mask.text);
        if let Some(known) = self.known(&key) {
            return Ok(known);
        }
        let depth = self.place(mask.depth.max(word.depth).max(part.map_or(0, |p| p.depth)));
        let name = self.fresh("v");
        self.line_at(depth, format!("var {name} = {};", kind.zero()));
        self.line_at(depth, format!("if ({}) {{ {name} = {text}; }}", mask.text));
        let e = Ex { text: name, depth };
        self.remember(key, &e);
        Ok(e)
    }

    /// The array element that holds an element of a buffer, and the element's position in it when it holds several.
    fn fetch(&mut self, id: BufferId, at: &IndexExpr, lane: usize) -> Result<(Ex, Option<Ex>), String> {
        let buffer = self.unit.buffer(id)?.clone();
        let per_word = if self.vector[buffer.binding] { 4 } else { buffer.format.per_word };
        let name = format!("b{}", buffer.binding);
        if per_word == 1 {
            let i = self.index(at, lane)?;
            return Ok((Ex { text: format!("{name}[{}]", i.text), depth: i.depth }, None));
        }
        let per_word = Dim::int(per_word as i64);
        let (i, part) = (self.index(&at.div(&per_word), lane)?, self.index(&at.modulo(&per_word), lane)?);
        Ok((Ex { text: format!("{name}[{}]", i.text), depth: i.depth }, Some(part)))
    }

    /// An element of the buffer as a value, out of the array element that holds it.
    fn decode(&mut self, id: BufferId, word: &str, part: Option<&Ex>, kind: Kind) -> Result<String, String> {
        let buffer = self.unit.buffer(id)?;
        let (declared, element) = (self.unit.bindings[buffer.binding].element, buffer.format.element);
        let recast = |text: String| if declared == element { text } else { format!("bitcast<{}>({text})", element.wgsl()) };
        if buffer.format.per_word > 1 {
            let part = part.map_or("0u", |p| p.text.as_str());
            return Ok(unpack(buffer.operand.dtype, &recast(word.to_string()), part));
        }
        let word = match part {
            Some(part) => component(&part.text).map_or_else(|_| format!("{word}[{}]", part.text), |c| format!("{word}.{c}")),
            None => word.to_string(),
        };
        let word = recast(word);
        Ok(match (element, kind) {
            (Element::U32, Kind::Bool) => format!("({word} != 0u)"),
            (Element::F16, _) => format!("f32({word})"),
            (Element::I32, Kind::I64) => format!("i64({word})"),
            (Element::I64, Kind::I32) => format!("i32({word})"),
            _ => word,
        })
    }

    /// A value as what is stored for one element: an array element or, in packed formats, its bits as u32.
    fn encode(&mut self, id: BufferId, value: &str) -> Result<String, String> {
        let unit = self.unit;
        let buffer = unit.buffer(id)?;
        let packed = buffer.format.per_word > 1;
        Ok(match (buffer.operand.dtype, buffer.format.element) {
            (DType::F16, _) if packed => format!("{}({value})", self.helper("f16_bits_")),
            (DType::BF16, _) if packed => format!("{}({value})", self.helper("bf16_bits_")),
            (DType::I8, _) if packed => format!("(bitcast<u32>({value}) & 0xffu)"),
            (DType::I16, _) if packed => format!("(bitcast<u32>({value}) & 0xffffu)"),
            (DType::F16, Element::F16) if self.unit.target.caps.converts_halves => format!("f16({value})"),
            (DType::F16, Element::F16) => format!("f16({}({value}))", self.helper("round_f16_")),
            (DType::F16, _) => format!("{}({value})", self.helper("round_f16_")),
            (DType::BF16, _) => format!("{}({value})", self.helper("round_bf16_")),
            (DType::Bool, _) => format!("select(0u, 1u, {value})"),
            (DType::I64, Element::I32) if self.unit.kind(DType::I64)? == Kind::I64 => spell::to_i32(value),
            _ => value.to_string(),
        })
    }

    /// Statements that perform a write for consecutive `lanes`. `active` names the condition of a lane, if it has one. Nothing
    /// is stored yet when this returns: all values are computed before the first store.
    pub fn stores(&mut self, write: &Write, lanes: &[usize], active: &dyn Fn(usize) -> Option<String>) -> Result<Vec<String>, String> {
        let unit = self.unit;
        let buffer = unit.buffer(write.buffer)?;
        let vector = self.vector[buffer.binding];
        // Storing rounds as the conversion does.
        let stored = match unit.nest.stmt(write.value).instr {
            Instr::Cast(from)
                if buffer.operand.dtype.is_half()
                    && unit.nest.dtype(write.value) == buffer.operand.dtype
                    && unit.kind(unit.nest.dtype(from))? == Kind::F32 =>
            {
                from
            }
            _ => write.value,
        };
        let width = if vector { 4 } else { buffer.format.per_word as usize };
        let (declared, element) = (unit.bindings[buffer.binding].element, buffer.format.element);
        let mut out = vec![];
        for chunk in lanes.chunks(width) {
            if width > 1 && !self.owns_words(&write.index, chunk, width as u32) {
                return Err(format!(
                    "{}: a packed write does not own whole words of {width} {}; word storage is needed",
                    buffer.name, buffer.operand.dtype
                ));
            }
            let mut parts = vec![];
            for &lane in chunk {
                let v = self.value(stored, lane)?;
                let mut text = self.encode(write.buffer, &v.text)?;
                if width > 1
                    && !vector
                    && let Some(test) = active(lane)
                {
                    text = format!("select(0u, {text}, {test})");
                }
                parts.push(self.bind(Ex { text, depth: v.depth }, "p").text);
            }
            let at = self.lanes[chunk[0]].write_index(&write.index);
            let at = if width > 1 { at.div(&Dim::int(width as i64)) } else { at };
            let i = self.index(&at, chunk[0])?;
            let i = self.bind(i, "x");
            let stored = if vector {
                format!("vec4<{}>({})", element.wgsl(), parts.join(", "))
            } else if width > 1 {
                let bits = 32 / width;
                let shifted = parts.iter().enumerate().map(|(k, p)| if k == 0 { p.clone() } else { format!("({p} << {}u)", k * bits) });
                shifted.collect::<Vec<_>>().join(" | ")
            } else {
                parts.remove(0)
            };
            let stored = match (declared == element, vector) {
                (true, _) => stored,
                (false, true) => format!("bitcast<vec4<{}>>({stored})", declared.wgsl()),
                (false, false) => format!("bitcast<{}>({stored})", declared.wgsl()),
            };
            let store = format!("b{}[{}] = {stored};", buffer.binding, i.text);
            out.push(match active(chunk[0]) {
                Some(test) => format!("if ({test}) {{ {store} }}"),
                None => store,
            });
        }
        Ok(out)
    }

    /// Whether the elements at `index` in these lanes are exactly one aligned word of `width` elements.
    pub fn owns_words(&self, index: &IndexExpr, lanes: &[usize], width: u32) -> bool {
        let lanes: Vec<&Lane> = lanes.iter().map(|&l| &self.lanes[l]).collect();
        owns_words(self.unit.nest, &lanes, self.across, index, width)
    }
}

/// Whether an index is outside of `0..size`.
fn beyond(number: Option<i64>, kind: Kind, x: &str, size: &str) -> String {
    match (number.map(u32::try_from), kind) {
        (Some(Ok(n)), _) => format!("{n}u >= {size}"),
        (Some(Err(_)), _) => "true".into(),
        (None, Kind::I64) => format!("u64({x}) >= u64({size})"),
        (None, Kind::U32) => format!("{x} >= {size}"),
        (None, _) => format!("u32({x}) >= {size}"),
    }
}

fn component(part: &str) -> Result<&'static str, String> {
    match part {
        "0u" => Ok("x"),
        "1u" => Ok("y"),
        "2u" => Ok("z"),
        "3u" => Ok("w"),
        _ => Err(format!("a vector component is not constant: {part}")),
    }
}

/// Element number `part` of a packed word.
fn unpack(dtype: DType, word: &str, part: &str) -> String {
    let bits = 32 / per_word(dtype);
    let constant = part.strip_suffix('u').and_then(|p| p.parse::<u32>().ok());
    let down = match constant {
        Some(0) => word.to_string(),
        Some(k) => format!("({word} >> {}u)", k * bits),
        None => format!("({word} >> ({part} * {bits}u))"),
    };
    match dtype {
        DType::Bool => format!("(({down} & 0xffu) != 0u)"),
        DType::U8 => format!("({down} & 0xffu)"),
        DType::I8 => format!("(bitcast<i32>({down} << 24u) >> 24u)"),
        DType::I16 => format!("(bitcast<i32>({down} << 16u) >> 16u)"),
        DType::BF16 => format!("bitcast<f32>({down} << 16u)"),
        _ => match constant {
            Some(1) => format!("unpack2x16float({word}).y"),
            _ => format!("unpack2x16float({down}).x"),
        },
    }
}
