// ---- bits back: a stack whose numbers come from a checkpoint's own codec
(() => {
  const { data, svg, add } = window.twobounds;
  const chains = data.chains;
  if (!chains.length) return;
  const at = (id) => document.getElementById(id);
  const KINDS = { start: "var(--line)", pixels: "var(--k2)", prior: "var(--k5)", popped: "var(--k6)" };
  const form = (bits) => bits.toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
  const bound = (move) => move.d + move.r;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  let timer = 0, moving = 0;
  chains.forEach((chain) => add(at("b-run"), "option", data.checkpoints[chain.run].label));
  at("b-run-label").hidden = chains.length < 2;
  const chain = () => chains[Math.max(0, at("b-run").selectedIndex)];

  // the parts of the stack after some steps; each image has three: pop, push pixels, push its code
  function stack(steps, share) {
    const parts = [];
    let removed = 0;
    for (let step = 0; step <= steps; step++) {
      const image = Math.floor(step / 3), move = chain().moves[image];
      if (!move) break;
      const part = step === steps ? share : 1;
      if (step % 3 === 0) {
        if (move.start) parts.push({ kind: "start", bits: move.start, image });
        removed = move.popped * part;
        let rest = removed;
        while (rest > 0 && parts.length) {
          const top = parts[parts.length - 1], taken = Math.min(rest, top.bits);
          top.bits -= taken;
          rest -= taken;
          if (top.bits <= 1e-9) parts.pop();
        }
      } else {
        const kind = step % 3 === 1 ? "pixels" : "prior";
        parts.push({ kind, bits: move[kind] * part, image });
      }
    }
    return { parts, removed };
  }
  function heights() {
    let now = 0, most = 0;
    for (const move of chain().moves) {
      now += move.start;
      most = Math.max(most, now);
      now += move.pixels + move.prior - move.popped;
      most = Math.max(most, now);
    }
    return most;
  }
  function said(step) {
    const moves = chain().moves, image = Math.floor(step / 3), move = moves[image];
    const done = moves.slice(0, step % 3 === 2 ? image + 1 : image);
    const sum = (key) => done.reduce((total, one) => total + one[key], 0);
    const now = [
      `Image ${image + 1}: pop its code z with q(z|x), −${form(move.popped)} bits` +
        (move.start ? `. The stack is too short, so ${form(move.start)} start-up bits are pushed first` : ""),
      `Image ${image + 1}: push its pixels with p(x|z), +${form(move.pixels)} bits`,
      `Image ${image + 1}: push z with p(z), +${form(move.prior)} bits. Net: ${form(move.pixels)} + ${form(move.prior)} − ${form(move.popped)} = ${form(move.pixels + move.prior - move.popped)}; its D + R is ${form(bound(move))}`,
    ][step % 3];
    const net = sum("pixels") + sum("prior") - sum("popped");
    const total = done.length
      ? ` ${done.length} image${done.length > 1 ? "s" : ""} so far: pushed ${form(sum("pixels") + sum("prior"))}, popped ${form(sum("popped"))}, net ${form(net)} bits = ${(net / done.length / chain().values).toFixed(3)} bits a value.`
      : "";
    return [now + ".", total];
  }
  function draw(step, share) {
    const moves = chain().moves, image = Math.floor(step / 3), move = moves[image];
    const { parts, removed } = stack(step, share);
    at("b-stack").replaceChildren(column(parts, removed, step), balance(move, step, share));
    at("b-step").value = step;
    at("b-step-out").textContent = `${step + 1} of ${3 * moves.length}`;
    const [now, total] = said(step);
    at("b-said").textContent = now;
    at("b-total").textContent = total;
  }
  function frame(about) {
    return svg("svg", { viewBox: "0 0 480 270", role: "img", "aria-label": about, width: "100%" });
  }
  function column(parts, removed, step) {
    const made = frame("The stack of bits"), top = heights();
    const y = (bits) => 240 - (215 * bits) / top;
    let below = 0;
    for (const part of parts) {
      const box = { x: 120, width: 200, y: y(below + part.bits), height: Math.max(0, y(below) - y(below + part.bits)) };
      svg("rect", { ...box, fill: KINDS[part.kind], stroke: "var(--paper)", "stroke-width": 0.8 }, made);
      if (box.height > 13 && part.kind !== "start") {
        const name = part.kind === "pixels" ? `pixels of image ${part.image + 1}` : `code of image ${part.image + 1}`;
        svg("text", { x: 328, y: box.y + box.height / 2 + 4 }, made, name);
      } else if (box.height > 13) svg("text", { x: 328, y: box.y + box.height / 2 + 4 }, made, "start-up bits");
      below += part.bits;
    }
    if (step % 3 === 0 && removed) {
      const ghost = { x: 120, width: 200, y: y(below + removed), height: y(below) - y(below + removed) };
      svg("rect", { ...ghost, fill: "none", stroke: KINDS.popped, "stroke-width": 1.6, "stroke-dasharray": "4 3" }, made);
      svg("text", { x: 112, y: ghost.y + ghost.height / 2 + 4, "text-anchor": "end", class: "ink" }, made, `−${form(removed)} popped`);
    }
    svg("line", { x1: 110, x2: 330, y1: 240, y2: 240, stroke: "var(--ink)" }, made);
    svg("text", { x: 220, y: 260, "text-anchor": "middle", class: "ink" }, made, `${form(below)} bits on the stack`);
    return made;
  }
  function balance(move, step, share) {
    const made = frame("Bits that this image pops and pushes");
    const moved = { popped: step % 3 ? move.popped : move.popped * share };
    moved.pixels = step % 3 === 0 ? 0 : step % 3 === 1 ? move.pixels * share : move.pixels;
    moved.prior = step % 3 === 2 ? move.prior * share : 0;
    const most = Math.max(...chain().moves.map((one) => one.pixels + one.prior));
    const x = (bits) => 66 + (390 * bits) / most;
    const bar = (y, from, bits, kind) => svg("rect", { x: x(from), y, width: Math.max(0, x(from + bits) - x(from)), height: 26, fill: kind }, made);
    const row = (y, name) => svg("text", { x: 58, y: y + 18, "text-anchor": "end" }, made, name);
    const key = (y, kind, text) => {
      svg("rect", { x: 66, y: y - 9, width: 10, height: 10, fill: kind }, made);
      svg("text", { x: 82, y }, made, text);
    };
    row(20, "popped"); bar(20, 0, moved.popped, KINDS.popped);
    row(62, "pushed"); bar(62, 0, moved.pixels, KINDS.pixels); bar(62, moved.pixels, moved.prior, KINDS.prior);
    row(104, "net");
    if (step % 3 === 2) {
      bar(104, 0, Math.max(0, moved.pixels + moved.prior - moved.popped), "var(--ink)");
      svg("line", { x1: x(bound(move)), x2: x(bound(move)), y1: 98, y2: 136, stroke: "var(--quiet)", "stroke-width": 2 }, made);
      svg("text", { x: x(bound(move)) + 6, y: 148, class: "ink" }, made, `D + R ${form(bound(move))}`);
    }
    key(184, KINDS.popped, "its code z, popped with q(z|x): these bits come back");
    key(204, KINDS.pixels, "its pixels, pushed with p(x|z)");
    key(224, KINDS.prior, "its code z, pushed with p(z)");
    return made;
  }
  function go(step) {
    cancelAnimationFrame(moving);
    if (calm) return draw(step, 1);
    const began = performance.now();
    const tick = (time) => {
      const share = Math.min(1, Math.max(0, (time - began) / 450));
      draw(step, share);
      if (share < 1) moving = requestAnimationFrame(tick);
    };
    draw(step, 0);
    moving = requestAnimationFrame(tick);
  }
  function stop() {
    clearInterval(timer);
    timer = 0;
    at("b-play").textContent = "Play";
  }
  at("b-play").addEventListener("click", () => {
    if (timer) return stop();
    const last = 3 * chain().moves.length - 1;
    const next = () => {
      const step = Number(at("b-step").value);
      if (step >= last) return stop();
      go(step + 1);
    };
    at("b-play").textContent = "Pause";
    if (Number(at("b-step").value) >= last) go(0);
    timer = setInterval(next, 1100);
  });
  at("b-step").addEventListener("input", () => { stop(); cancelAnimationFrame(moving); draw(Number(at("b-step").value), 1); });
  at("b-run").addEventListener("change", reset);
  at("b-stop").addEventListener("input", drawStop);

  // ---- stop after b bits
  function drawStop() {
    const stops = chain().stops, place = Number(at("b-stop").value), one = stops[place];
    if (!one) return;
    const all = stops[stops.length - 1].dimensions;
    at("b-stop-out").textContent = `${form(one.rate)} bits`;
    at("b-stop-said").textContent =
      `A receiver that stops after b = ${form(one.rate)} net bits of an image knows ${one.dimensions} of ${all} dimensions of the code of this image ` +
      `(${form(one.written)} bits are read, ${form(one.written - one.rate)} of them come back). ` +
      `${form(one.distortion)} bits of the pixels are still missing.`;
    const made = frame("Bits that were read, and bits that are missing, for each place to stop");
    const most = Math.max(...stops.map((s) => Math.max(0, s.rate) + s.distortion)), wide = 420 / stops.length;
    const y = (bits) => 220 - (185 * bits) / most;
    stops.forEach((s, number) => {
      const x = 40 + wide * number, faint = number === place ? 1 : 0.35, read = Math.max(0, s.rate);
      svg("rect", { x, width: wide - 6, y: y(read), height: y(0) - y(read), fill: KINDS.prior, opacity: faint }, made);
      svg("rect", { x, width: wide - 6, y: y(read + s.distortion), height: y(read) - y(read + s.distortion), fill: KINDS.pixels, opacity: faint }, made);
      svg("text", { x: x + wide / 2 - 3, y: 236, "text-anchor": "middle", class: number === place ? "ink" : "" }, made, s.dimensions);
    });
    const now = y(Math.max(0, one.rate) + one.distortion);
    svg("text", { x: 40 + wide * place + wide / 2 - 3, y: now - 6, "text-anchor": "middle", class: "ink" }, made, form(Math.max(0, one.rate) + one.distortion));
    svg("text", { x: 250, y: 256, "text-anchor": "middle" }, made, "dimensions read; bars: bits an image, read (below) and missing (above)");
    at("b-stops").replaceChildren(made);
    at("b-pictures").hidden = !chain().picture;
    if (chain().picture) {
      row("b-images", 0);
      row("b-known", place + 1);
    }
  }
  // one row of the picture, as the background of an element of its size
  function row(id, number) {
    const { picture, width, height, stops } = chain(), rows = stops.length + 1, look = at(id).style;
    look.aspectRatio = `${width} / ${height / rows}`;
    look.backgroundImage = `url(${picture})`;
    look.backgroundSize = `100% ${100 * rows}%`;
    look.backgroundPosition = `0 ${(100 * number) / (rows - 1)}%`;
  }
  function reset() {
    stop();
    at("b-step").max = 3 * chain().moves.length - 1;
    const stops = chain().stops;
    at("b-stopping").hidden = !stops.length;
    at("b-stop").max = Math.max(0, stops.length - 1);
    at("b-stop").value = Math.floor(stops.length / 2);
    draw(0, 1);
    drawStop();
  }
  reset();
})();
