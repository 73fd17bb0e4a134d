// The objective (Eq. 21): what a weight weighs, on the recorded terms of a training
import { BLUE, ORANGE, axes, clip, explorer, line, scale, text } from './kit.js'
import recorded from './objective.json' with { type: 'json' }

const { images, steps, terms, weights } = recorded  // step 1 is the first
const names = Object.keys(terms)
const COLOURS = ['#7d848c', BLUE, ORANGE, '#0b9470', '#b45fae']
const last = steps.length - 1
// Images, or pairs of images, of which an alignment is the mean or the sum
const ROWS = { tgsa: images, csa: images, mdr: images / 2 }

// ---------------------------------------------------------------- the numbers

const sum = values => values.reduce((total, x) => total + x, 0)
const times = (state, group) => (state.reduction === 'sum' && ROWS[group]) || 1
const part = (state, group, n) => state.weights[group] * times(state, group) * terms[group][n]

// Shares of the total at a recorded step
function shares(state, n) {
    const parts = names.map(group => part(state, group, n))
    const total = sum(parts)
    return { total, parts, shares: parts.map(x => x / total) }
}

const put = name => state => ({ ...state, ...weights[name] })

// ---------------------------------------------------------------- weight times term

const LEFT = 62, RIGHT = 330, LOW = -3, HIGH = 2  // powers of ten
const across = scale(LOW, HIGH, LEFT, RIGHT), back = scale(LEFT, RIGHT, LOW, HIGH)
const place = x => across(clip(x > 0 ? Math.log10(x) : LOW, LOW, HIGH))
const y = row => 48 + 34 * row
const start = 'style="text-anchor:start"', end = 'style="text-anchor:end"'

function sizes(state) {
    const now = shares(state, state.step - 1)
    const rows = names.map((group, row) =>
        text(LEFT - 14, y(row) + 4, group, end) +
        line([[LEFT, y(row)], [RIGHT, y(row)]], 'opacity="0.2"') +
        text(place(now.parts[row]), y(row) - 10, now.parts[row].toPrecision(3)))
    const mark = `<circle cx="${place(now.parts[0])}" cy="${y(0)}" r="6" fill="${COLOURS[0]}"/>`
    return axes({ left: LEFT, right: RIGHT, top: 30, bottom: 210, x: ['0.001', '100'], y: ['', ''],
        across: 'weight times term, drag to weigh', up: `at step ${state.step}` }) +
        rows.join('') + mark
}

const handles = state => names.slice(1).map((group, n) => ({
    key: group, x: place(part(state, group, state.step - 1)), y: y(n + 1),
    mark: `<circle r="6" fill="${COLOURS[n + 1]}" stroke="currentColor"/>`,
    label: `weight of ${group}`, value: state.weights[group], range: [0, 100],
    says: `weight ${state.weights[group].toPrecision(2)}`,
}))

function move(state, group, x) {
    const size = 10 ** back(clip(x, LEFT, RIGHT))
    const weight = x <= LEFT + 1 ? 0 : size / (times(state, group) * terms[group][state.step - 1])
    return { ...state, weights: { ...state.weights, [group]: clip(weight, 0, 100) } }
}

// ---------------------------------------------------------------- shares of the total

const right = scale(0, last, 44, 300), up = scale(0, 1, 210, 30)

function stack(state) {
    let below = steps.map(() => 1)  // the first group is the highest
    const areas = names.map((group, row) => {
        const above = below
        below = above.map((share, n) => share - shares(state, n).shares[row])
        const places = [...above.map((share, n) => [right(n), up(share)]),
            ...below.map((share, n) => [right(n), up(share)]).reverse()]
        const name = above[last] - below[last] > 0.07
            ? text(308, up((above[last] + below[last]) / 2) + 4, group, start) : ''
        return `<polygon points="${places.map(at => at.join(',')).join(' ')}" ` +
            `fill="${COLOURS[row]}" fill-opacity="0.8"/>${name}`
    })
    const now = right(state.step - 1)
    return areas.join('') + line([[now, 30], [now, 210]], 'stroke-dasharray="3 3"') +
        axes({ left: 44, right: 300, top: 30, bottom: 210, x: [steps[0], steps[last]],
            y: ['0%', '100%'], across: 'step', up: 'share of the total' })
}

function words(state) {
    const now = shares(state, state.step - 1)
    const parts = names.map((group, row) => `${group} ${(100 * now.shares[row]).toFixed(1)}%`)
    const given = names.slice(1).map(group => `${group} ${state.weights[group].toPrecision(2)}`)
    return `Step ${state.step}, total ${now.total.toFixed(2)}: ${parts.join(', ')}. ` +
        `Weights: ${given.join(', ')}.`
}

export default explorer({
    panels: [
        { width: 350, height: 235, label: 'Weight times term of each group, which can be moved', draw: sizes },
        { width: 350, height: 235, label: 'Shares of the total over the steps', draw: stack },
    ],
    handles, move, words, step: [across(0.1) - across(0), 0],
    controls: [
        { press: 'the paper', does: put('paper') },
        { press: 'this run', does: put('run') },
        { choose: 'reduction', label: 'alignments:', options: ['sum', 'mean'] },
        { slide: 'step', label: 'step', low: 1, high: steps.length, step: 1 },
    ],
})
