// What all explorers share: drawing, points that follow a finger or an arrow key, and a home in a
// page without a kernel. An explorer is a table of pure functions of its state:
//
//     panels    [{ width, height, label, draw(state) }], SVG text; handles lie on the first one
//     handles   state => [{ key, x, y, mark, label, value, range, says }], in units of that panel
//     move      (state, key, x, y) => state with this handle there
//     step      [across, up] that an arrow key moves a handle, in the same units
//     controls  [{ press, does } | { choose, label, options } | { slide, label, low, high, step }];
//               `high` may be a function of the first state
//     words     state => the sentence below, which a screen reader is told
//
// and, where something is loaded,
//
//     fetched   (model, state) => null, or a promise while what a state shows is on its way

export const BLUE = '#2f86c1', ORANGE = '#d0730a'  // seen on white and on black

export const STYLE = `
.idkl { color: var(--jp-content-font-color1, inherit); margin: 0.5rem 0; max-width: 760px }
.idkl .panels { display: flex; flex-wrap: wrap; gap: 0.5rem 1.5rem }
.idkl svg { max-width: 100%; height: auto; overflow: visible; user-select: none }
.idkl svg, .idkl-still { font: 12px system-ui, sans-serif; fill: currentColor }
.idkl [role=slider] { cursor: grab; touch-action: none; outline: none }
.idkl [role=slider] .ring { fill: transparent; stroke: none }
.idkl [role=slider]:focus-visible .ring { stroke: currentColor; stroke-width: 2 }
.idkl .controls { display: flex; flex-wrap: wrap; gap: 0.5rem 1.25rem; margin: 0.5rem 0 }
.idkl .controls > * { align-items: center; border: 0; display: flex; flex-wrap: wrap; gap: 0.5rem; margin: 0; min-width: 0; padding: 0 }
.idkl legend { float: left; font: inherit; margin: 0 0.5rem 0 0; padding: 0; width: auto }
.idkl fieldset label { display: flex; gap: 0.25rem }
.idkl .controls button { background: none; border: 1px solid currentColor; border-radius: 4px; color: inherit; font: inherit; padding: 0.2rem 0.7rem }
.idkl output { display: block; font-variant-numeric: tabular-nums; min-height: 3em }
@media print { .idkl .controls { display: none } }`

// ---------------------------------------------------------------- drawing

// A function from numbers between two to places between two; exchanged, it goes back
export const scale = (low, high, from, to) => x => from + ((x - low) / (high - low)) * (to - from)

export const clip = (x, low, high) => Math.min(high, Math.max(low, x))

export const text = (x, y, words, more = '') =>
    `<text x="${x}" y="${y}" text-anchor="middle" ${more}>${words}</text>`

export const line = (places, more = '') =>
    `<polyline points="${places.map(at => at.join(',')).join(' ')}" fill="none" ` +
    `stroke="currentColor" ${more}/>`

export const box = (x, y, width, height, more = '') =>
    `<rect x="${x}" y="${y}" width="${width}" height="${height}" ${more}/>`

// A frame of axes, with the numbers at their ends and a name for each
export function axes({ left, right, top, bottom, x, y, across, up = '' }) {
    return line([[left, top], [left, bottom], [right, bottom]], 'opacity="0.6"') +
        text(left, bottom + 15, x[0]) + text(right, bottom + 15, x[1]) +
        text((left + right) / 2, bottom + 15, across) +
        text(left - 5, bottom, y[0], 'style="text-anchor:end"') +
        text(left - 5, top + 9, y[1], 'style="text-anchor:end"') +
        text(left, top - 7, up, 'style="text-anchor:start"')
}

// ---------------------------------------------------------------- handles

const label = ({ label, value, range, says }) => ({
    'aria-label': label, 'aria-valuenow': value, 'aria-valuetext': says,
    'aria-valuemin': range[0], 'aria-valuemax': range[1],
})

function handle(spec) {
    const words = Object.entries(label(spec)).map(([name, value]) => `${name}="${value}"`)
    return `<g role="slider" tabindex="0" transform="translate(${spec.x} ${spec.y})" ` +
        `${words.join(' ')}><circle class="ring" r="14" fill="none"/>${spec.mark}</g>`
}

const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }

function listen(svg, parts, now, act) {
    let held = null
    const place = event => {
        const box = svg.getBoundingClientRect()
        const unit = parts.panels[0].width / box.width
        return [(event.clientX - box.left) * unit, (event.clientY - box.top) * unit]
    }
    const moved = (spec, x, y, done) => act(parts.move(now(), spec.key, x, y), done)

    svg.addEventListener('pointerdown', event => {
        const [x, y] = place(event)
        const far = spec => Math.hypot(spec.x - x, spec.y - y)
        const specs = parts.handles(now())
        const n = specs.reduce((best, spec, i) => (far(spec) < far(specs[best]) ? i : best), 0)
        if (far(specs[n]) > 24 || event.button) return
        held = specs[n]
        svg.querySelectorAll('[role=slider]')[n].focus({ preventScroll: true })
        svg.setPointerCapture(event.pointerId)
        event.preventDefault()
    })
    svg.addEventListener('pointermove', event => held && moved(held, ...place(event), false))
    for (const end of ['pointerup', 'pointercancel'])
        svg.addEventListener(end, () => { if (held) act(now()); held = null })

    svg.addEventListener('keydown', event => {
        const way = KEYS[event.key]
        const n = [...svg.querySelectorAll('[role=slider]')].indexOf(event.target)
        if (!way || n < 0) return
        event.preventDefault()
        const spec = parts.handles(now())[n]
        moved(spec, spec.x + way[0] * parts.step[0], spec.y + way[1] * parts.step[1])
    })
}

// ---------------------------------------------------------------- controls

let groups = 0

// An element for a control, and a function that shows it a state
export function control(spec, now, act) {
    const home = document.createElement(spec.choose ? 'fieldset' : spec.slide ? 'label' : 'button')
    if (spec.press) {
        home.type = 'button'
        home.textContent = spec.press
        home.addEventListener('click', () => act(spec.does(now())))
        return [home, () => {}]
    }
    if (spec.slide) {
        const high = typeof spec.high === 'function' ? spec.high(now()) : spec.high
        home.innerHTML = `${spec.label} <input type="range" min="${spec.low}" max="${high}" ` +
            `step="${spec.step}"> <span></span>`
        const [input, number] = home.children
        const moved = done => act({ ...now(), [spec.slide]: Number(input.value) }, done)
        input.addEventListener('input', () => moved(false))
        input.addEventListener('change', () => moved(true))
        return [home, state => { number.textContent = input.value = state[spec.slide] }]
    }
    const name = `idkl-${spec.choose}-${++groups}`
    home.innerHTML = `<legend>${spec.label}</legend>` + spec.options.map(option =>
        `<label><input type="radio" name="${name}" value="${option}">${option}</label>`).join('')
    home.addEventListener('change', event => act({ ...now(), [spec.choose]: event.target.value }))
    return [home, state => {
        for (const input of home.querySelectorAll('input'))
            input.checked = input.value === state[spec.choose]
    }]
}

// ---------------------------------------------------------------- an explorer

const panel = ({ width, height, label }, role, content) =>
    `<svg viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="${role}" ` +
    `aria-label="${label}">${content}</svg>`

// What is shown without JavaScript: all panels side by side, at their start
export function still(parts, state) {
    const handles = parts.handles(state).map(handle).join('')
    let right = 0
    const drawn = parts.panels.map((spec, n) => {
        const content = spec.draw(state) + (n ? '' : handles)
        const at = `<g transform="translate(${right} 0)">${content}</g>`
        right += spec.width + 24
        return at
    })
    const height = Math.max(...parts.panels.map(spec => spec.height))
    return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${right - 24} ${height}" ` +
        `width="${right - 24}" height="${height}" ` +
        `style="font:12px system-ui,sans-serif">${drawn.join('')}</svg>`
}

export function explorer(parts) {
    function render({ model, el }) {
        const start = model.get('state')
        let frame = 0  // of an animation
        const [first, ...others] = parts.panels
        const layers = '<g class="drawn" aria-hidden="true"></g><g class="handles"></g>'
        el.innerHTML = `<div class="idkl"><style>${STYLE}</style><div class="panels">` +
            panel(first, 'group', layers) +
            others.map(spec => panel(spec, 'img', '<g class="drawn"></g>')).join('') +
            '</div><div class="controls"></div><output aria-live="polite"></output></div>'
        const drawn = el.querySelectorAll('.drawn')
        const handles = el.querySelector('.handles')
        handles.innerHTML = parts.handles(start).map(handle).join('')

        const now = () => model.get('state')
        const act = (next, done = true) => {
            cancelAnimationFrame(frame)
            if (Array.isArray(next)) return play(next)
            model.set('state', next)  // which shows it
            if (done) model.save_changes()
        }
        // Several states one after the other; at once for those who want no motion
        const play = states => {
            const calm = matchMedia('(prefers-reduced-motion: reduce)').matches
            const [next, ...later] = calm ? states.slice(-1) : states
            act(next, !later.length)
            if (later.length) frame = requestAnimationFrame(() => play(later))
        }
        const again = { press: 'start again', does: () => start }
        const controls = [...parts.controls, again].map(spec => control(spec, now, act))
        el.querySelector('.controls').append(...controls.map(([home]) => home))
        listen(el.querySelector('svg'), parts, now, act)

        const show = () => {
            const state = now()
            parts.panels.forEach((spec, n) => { drawn[n].innerHTML = spec.draw(state) })
            parts.handles(state).forEach((spec, n) => {
                const mark = handles.children[n]
                mark.setAttribute('transform', `translate(${spec.x} ${spec.y})`)
                for (const [name, value] of Object.entries(label(spec)))
                    mark.setAttribute(name, value)
            })
            for (const [, follow] of controls) follow(state)
            const output = el.querySelector('output')
            output.textContent = parts.words(state)
            const failed = error => { output.textContent = error.message }
            parts.fetched?.(model, state)?.then(show, failed)
        }
        show()
        model.on('change:state', show)
        return () => model.off('change:state', show)
    }
    return { render, still: state => still(parts, state) }
}

// In a page without a kernel the explorer takes the place of its picture
export function settle(module, name) {
    for (const home of document.querySelectorAll(`[data-explorer="${name}"]`)) {
        const values = { state: JSON.parse(home.dataset.state) }
        let show = () => {}
        const model = {
            get: key => values[key],
            set: (key, value) => { values[key] = value; show() },
            on: (event, follow) => { show = follow },
            save_changes() {},  // there is no kernel to tell
        }
        const el = document.createElement('div')
        module.render({ model, el })
        home.replaceChildren(el)
        home.model = model
    }
}
