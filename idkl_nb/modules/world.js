// The world (Eq. A of chapter 1): one person in both spectra, and a dial for how much they share
import { box, clip, explorer, line, scale, text } from './kit.js'
import { getFile } from './files.js'
import recorded from './world.json' with { type: 'json' }

const { dials, cameras, turns } = recorded
const records = new Map([[recorded.person, recorded]])  // of the people looked at so far

const names = ({ camera, turn, dial }) =>
    [`visible ${camera} ${turn}`, `infrared ${camera} ${turn} ${dial}`]

function keep(content) {
    const record = JSON.parse(new TextDecoder().decode(content))
    records.set(record.person, record)
}

const coming = new Map()  // files that were asked for, by person

function fetched(model, state) {
    const { person } = state
    const known = records.get(person)  // the recorded one has its first pictures alone
    if (known && (known !== recorded || known.pictures[names(state)[1]])) return null
    if (!coming.has(person)) {
        const failed = error => {
            coming.delete(person)  // to be asked for again
            throw new Error(`The pictures of person ${person} could not be read: ${error.message}`)
        }
        coming.set(person, getFile(model, `${person}.json`).then(keep).catch(failed))
    }
    return coming.get(person)
}

// ---------------------------------------------------------------- the pictures and the dial

const WIDTH = 110, HEIGHT = 220, LEFT = [20, 150], TOP = 26, TRACK = 290
const FRAME = 'fill="none" stroke="currentColor" opacity="0.4"'
const along = scale(0, dials.length - 1, LEFT[0], LEFT[1] + WIDTH)
const back = scale(LEFT[0], LEFT[1] + WIDTH, 0, dials.length - 1)

function photographs(state) {
    const shots = records.get(state.person)?.pictures ?? {}
    const seen = names(state).map((name, n) => {
        const address = shots[name]
        const at = `x="${LEFT[n]}" y="${TOP}" width="${WIDTH}" height="${HEIGHT}"`
        return text(LEFT[n] + WIDTH / 2, 16, ['visible', 'infrared'][n]) +
            (address ? `<image href="${address}" ${at}/>` : `<rect ${at} ${FRAME}/>`)
    })
    const stops = dials.map((dial, n) =>
        line([[along(n), TRACK - 4], [along(n), TRACK + 4]]) + text(along(n), TRACK + 24, dial))
    return seen.join('') + line([[along(0), TRACK], [along(dials.length - 1), TRACK]]) +
        stops.join('') + text(LEFT[0], TRACK - 24, 'dial', 'style="text-anchor:start"')
}

const handles = state => [{
    key: 'dial', x: along(dials.indexOf(state.dial)), y: TRACK,
    mark: '<circle r="7" fill="currentColor" fill-opacity="0.5" stroke="currentColor"/>',
    label: 'dial', value: state.dial, range: [0, 1], says: `${state.dial}`,
}]

const move = (state, _, x) =>
    ({ ...state, dial: dials[clip(Math.round(back(x)), 0, dials.length - 1)] })

// ---------------------------------------------------------------- the surfaces

const grey = albedo => Array(3).fill(Math.floor(255 * albedo))

function surfaces(state) {
    const { parts } = records.get(state.person) ?? recorded
    const swatch = (x, y, colour) =>
        box(x, y, 56, 26, `fill="rgb(${colour})" stroke="currentColor" stroke-opacity="0.6"`)
    const rows = Object.entries(parts).map(([part, { rgb, luminance, albedo }], n) => {
        const y = 34 + 38 * n, own = albedo[state.dial]
        return text(58, y + 17, part, 'style="text-anchor:end"') + swatch(68, y, rgb) +
            swatch(132, y, grey(own)) +
            text(262, y + 17, `${luminance.toFixed(2)} → ${own.toFixed(2)}`)
    })
    return text(96, 16, 'by day') + text(160, 16, 'by night') +
        text(262, 16, 'luminance → albedo') + rows.join('')
}

// ---------------------------------------------------------------- the explorer

function words(state) {
    const record = records.get(state.person)
    if (!record) return `Person ${state.person} is being drawn.`
    const all = Object.values(record.parts)
    const apart = all.map(({ luminance, albedo }) => Math.abs(luminance - albedo[state.dial]))
    const gap = apart.reduce((a, b) => a + b) / all.length
    return `Person ${state.person}: ${record.worn}. At dial ${state.dial} luminance and albedo ` +
        `differ by ${gap.toFixed(2)} on the average of the five surfaces.`
}

export default explorer({
    panels: [
        { width: 290, height: 320, label: 'A person in both spectra, and the dial', draw: photographs },
        { width: 330, height: 230, label: 'Surfaces in both spectra', draw: surfaces },
    ],
    handles, move, words, fetched, step: [along(1) - along(0), 0],
    controls: [
        { slide: 'person', label: 'person', low: 1, high: state => state.people, step: 1 },
        { slide: 'turn', label: 'turn', low: turns[0], high: turns.at(-1), step: turns[1] - turns[0] },
        { choose: 'camera', label: 'camera', options: cameras },
    ],
})
