// CSA and MDR (Eq. 19 and 20): two predictions that are moved by hand, their divergence, and where
// a step of descent takes their logits
import { BLUE, ORANGE, axes, box, clip, explorer, line, scale, text } from './kit.js'

const SIDES = ['P', 'Q'], FILLS = { P: BLUE, Q: ORANGE }

// ---------------------------------------------------------------- the numbers

const sum = values => values.reduce((total, x) => total + x, 0)

function softmax(logits, temperature) {
    const top = Math.max(...logits)
    const weights = logits.map(z => Math.exp((z - top) / temperature))
    return weights.map(weight => weight / sum(weights))
}

const kl = (p, q) => sum(p.map((x, k) => x * Math.log(x / q[k])))

// The divergence, and its gradient with respect to both rows of logits
function measure(state) {
    const turned = state.direction === 'KL(Q, P)'
    const [first, second] = turned ? ['Q', 'P'] : SIDES
    const p = softmax(state[first], state.temperature), q = softmax(state[second], state.temperature)
    const loss = kl(p, q)
    const slopes = {
        [first]: p.map((x, k) => (x * (Math.log(x / q[k]) - loss)) / state.temperature),
        [second]: p.map((x, k) => (q[k] - x) / state.temperature),
    }
    if (state.stopped in slopes) slopes[state.stopped] = p.map(() => 0)
    return { loss, slopes, P: turned ? q : p, Q: turned ? p : q }
}

// Logits with probability x for one person; the others share the rest as before
function reach(logits, temperature, person, x) {
    const p = softmax(logits, temperature)
    const rest = (1 - x) / (1 - p[person])
    return p.map((share, k) => temperature * Math.log(k === person ? x : share * rest))
}

const CASES = {  // the three of chapter 9
    'P unsure': [[1 / 3, 1 / 3, 1 / 3], [0.98, 0.01, 0.01]],
    'P sure': [[0.98, 0.01, 0.01], [1 / 3, 1 / 3, 1 / 3]],
    'both sure': [[0.01, 0.98, 0.01], [0.98, 0.01, 0.01]],
}
const put = name => state => {
    const [P, Q] = CASES[name].map(p => p.map(Math.log))
    return { ...state, P, Q, temperature: 1 }
}

// ---------------------------------------------------------------- the picture

const WIDE = 34, LEFT = 42
const middle = (side, person) => LEFT + 24 + 90 * person + (side === 'Q' ? WIDE + 4 : 0)
const high = scale(0, 1, 235, 25), back = scale(235, 25, 0, 1)
const people = [0, 1, 2]

const legend = state => SIDES.map((side, n) =>
    box(LEFT + 105 * n, 277, 12, 12, `fill="${FILLS[side]}"`) +
    text(LEFT + 18 + 105 * n, 288, `${side}: ${state.names[n]}`, 'style="text-anchor:start"')).join('')

function predictions(state) {
    const found = measure(state)
    const bars = SIDES.flatMap(side => found[side].map((x, person) => {
        const left = middle(side, person) - WIDE / 2
        return box(left, high(x), WIDE, 235 - high(x), `fill="${FILLS[side]}"`)
    }))
    return axes({ left: LEFT, right: 320, top: 25, bottom: 235, x: ['', ''], y: [0, 1],
        across: '', up: 'probability' }) + bars.join('') +
        people.map(n => text(middle('P', n) + WIDE / 2, 252, `person ${n + 1}`)).join('') +
        legend(state)
}

const handles = state => {
    const found = measure(state)
    return SIDES.flatMap(side => found[side].map((x, person) => ({
        key: side + person, x: middle(side, person), y: high(x),
        mark: `<circle r="6" fill="${FILLS[side]}" stroke="currentColor"/>`,
        label: `${side}, ${state.names[SIDES.indexOf(side)]}, person ${person + 1}`,
        value: x, range: [0, 1], says: `probability ${x.toFixed(2)}`,
    })))
}

function move(state, key, _, top) {
    const x = clip(back(top), 0.005, 0.985)
    const logits = reach(state[key[0]], state.temperature, Number(key[1]), x)
    return { ...state, [key[0]]: logits }
}

function pulls(state) {
    const { slopes } = measure(state)
    const most = Math.max(1, ...SIDES.flatMap(side => slopes[side].map(Math.abs)))
    const up = scale(-most, most, 235, 25)
    const bars = SIDES.flatMap(side => slopes[side].map((slope, person) => {
        const ends = [up(0), up(-slope)]
        return box(middle(side, person) - WIDE / 2, Math.min(...ends), WIDE,
            Math.abs(ends[0] - ends[1]), `fill="${FILLS[side]}"`)
    }))
    return axes({ left: LEFT, right: 320, top: 25, bottom: 235, x: ['', ''],
        y: [(-most).toFixed(1), most.toFixed(1)], across: '',
        up: 'where a step of descent moves the logits' }) +
        line([[LEFT, up(0)], [320, up(0)]], 'opacity="0.6"') + bars.join('') +
        people.map(n => text(middle('P', n) + WIDE / 2, 252, `person ${n + 1}`)).join('')
}

function words(state) {
    const { loss, slopes } = measure(state)
    const norms = SIDES.map((side, n) =>
        `${side} (${state.names[n]}) ${Math.hypot(...slopes[side]).toFixed(4)}`)
    return `${state.direction} = ${loss.toFixed(4)}. Norm of the gradient: ${norms.join(', ')}.`
}

export default explorer({
    panels: [
        { width: 330, height: 295, label: 'Two predictions, which can be moved', draw: predictions },
        { width: 330, height: 295, label: 'Minus the gradient into each logit', draw: pulls },
    ],
    handles, move, words, step: [0, high(0) - high(0.02)],
    controls: [
        ...Object.keys(CASES).map(name => ({ press: name, does: put(name) })),
        { choose: 'direction', label: 'loss:', options: ['KL(P, Q)', 'KL(Q, P)'] },
        { choose: 'stopped', label: 'no gradient into:', options: ['nobody', 'P', 'Q'] },
        { slide: 'temperature', label: 'temperature', low: 0.2, high: 3, step: 0.1 },
    ],
})
