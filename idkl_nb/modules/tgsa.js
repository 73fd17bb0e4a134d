// TGSA (Eq. 15 and 16): points of two groups, their three matrices, the loss, and its descent
import { BLUE, ORANGE, axes, box, clip, explorer, line, scale, text } from './kit.js'

const LIMIT = 3  // points stay within this, in both directions
const RATE = 0.1, STEPS = 10  // of gradient descent, each time the button is pressed

// ---------------------------------------------------------------- the numbers

const minus = (p, q) => [p[0] - q[0], p[1] - q[1]]
const distances = (a, b) => a.map(p => b.map(q => Math.hypot(...minus(p, q))))

function logSoftmax(row) {
    const top = Math.max(...row)
    const total = Math.log(row.reduce((sum, x) => sum + Math.exp(x - top), 0))
    return row.map(x => x - top - total)
}

const sum = values => values.reduce((total, x) => total + x, 0)
const kl = (p, q) => sum(p.map((x, k) => Math.exp(x) * (x - q[k])))

// Logarithms of the three matrices of Eq. 15
const matrices = ({ a, b }) => {
    const of = (p, q) => distances(p, q).map(logSoftmax)
    return { aa: of(a, a), ab: of(a, b), bb: of(b, b) }
}
const PAIRS = [['aa', 'bb'], ['aa', 'ab'], ['ab', 'bb']]  // the divergences of Eq. 16

function loss(state) {
    const of = matrices(state)
    return sum(PAIRS.flatMap(([p, q]) => of[p].map((row, i) => kl(row, of[q][i]))))
}

// Gradient of the loss with respect to the distances, then to the points
function gradient(state) {
    const { a, b } = state
    const of = matrices(state)
    const zeros = () => a.map(row => a.map(() => 0))
    const slope = { aa: zeros(), ab: zeros(), bb: zeros() }
    for (const [p, q] of PAIRS)
        of[p].forEach((row, i) => row.forEach((x, k) => {
            const y = of[q][i][k]
            slope[p][i][k] += Math.exp(x) * (x - y - kl(row, of[q][i]))
            slope[q][i][k] += Math.exp(y) - Math.exp(x)
        }))

    const into = { a: a.map(() => [0, 0]), b: b.map(() => [0, 0]) }
    for (const name of ['aa', 'ab', 'bb']) {
        const [from, to] = name
        state[from].forEach((p, i) => state[to].forEach((q, k) => {
            const way = minus(p, q), far = Math.hypot(...way)
            if (far === 0) return
            way.forEach((x, axis) => {
                into[from][i][axis] += (slope[name][i][k] * x) / far
                into[to][k][axis] -= (slope[name][i][k] * x) / far
            })
        }))
    }
    return into
}

function descend(state) {
    const states = []
    for (let step = 0; step < STEPS; step++) {
        const slope = gradient(state)
        const moved = group => state[group].map((p, i) =>
            p.map((x, axis) => clip(x - RATE * slope[group][i][axis], -LIMIT, LIMIT)))
        const a = state.moving === 'b alone' ? state.a : moved('a')
        state = { ...state, a, b: moved('b'), losses: [...state.losses, loss(state)] }
        states.push(state)
    }
    return states
}

// ---------------------------------------------------------------- the picture

const x = scale(-LIMIT, LIMIT, 30, 310), y = scale(-LIMIT, LIMIT, 280, 20)
const across = scale(30, 310, -LIMIT, LIMIT), up = scale(280, 20, -LIMIT, LIMIT)
const place = p => [x(p[0]), y(p[1])]

const points = ({ a, b }) =>
    axes({ left: 30, right: 310, top: 20, bottom: 280, x: [-3, 3], y: [-3, 3],
        across: 'first feature', up: 'second feature: a circles, b triangles' }) +
    a.map((p, n) => line([place(p), place(b[n])], 'opacity="0.4"')).join('')

const MARKS = {
    a: `<circle r="7" fill="${BLUE}" stroke="currentColor"/>`,
    b: `<path d="M0 -8 L8 6 L-8 6 Z" fill="${ORANGE}" stroke="currentColor"/>`,
}

const handles = state => ['a', 'b'].flatMap(group => state[group].map((p, n) => ({
    key: `${group}${n}`, x: x(p[0]), y: y(p[1]),
    mark: MARKS[group] + text(13, -6, n + 1),
    label: `${group}${n + 1}`, value: p[0], range: [-LIMIT, LIMIT],
    says: `x ${p[0].toFixed(2)}, y ${p[1].toFixed(2)}`,
})))

function move(state, key, left, top) {
    const round = value => Math.round(clip(value, -LIMIT, LIMIT) * 20) / 20
    const points = state[key[0]].slice()
    points[key[1]] = [round(across(left)), round(up(top))]
    return { ...state, [key[0]]: points, losses: [] }
}

const CELL = 26
function matrix(left, name, rows) {
    const cells = rows.map((row, i) => row.map((value, j) => {
        const share = Math.exp(value)
        return box(left + j * CELL, 20 + i * CELL, CELL, CELL,
            `fill="${BLUE}" fill-opacity="${(0.75 * share).toFixed(3)}"`) +
            text(left + (j + 0.5) * CELL, 20 + (i + 0.66) * CELL, share.toFixed(2), 'font-size="10.5"')
    }).join(''))
    return text(left + 2 * CELL, 13, `${name[0]} to ${name[1]}`) + cells.join('')
}

function relations(state) {
    const of = matrices(state)
    const all = Object.keys(of).map((name, n) => matrix(n * (4 * CELL + 13), name, of[name]))
    const losses = [...state.losses, loss(state)]
    const steps = Math.max(STEPS, losses.length - 1), top = Math.max(1, Math.ceil(losses[0]))
    const at = scale(0, steps, 30, 330), high = scale(0, top, 280, 170)
    return all.join('') +
        axes({ left: 30, right: 330, top: 170, bottom: 280, x: [0, steps], y: [0, top],
            across: 'steps of descent', up: `loss ${losses.at(-1).toFixed(2)}` }) +
        line(losses.map((value, n) => [at(n), high(value)]), `style="stroke:${BLUE}" stroke-width="2"`) +
        `<circle cx="${at(losses.length - 1)}" cy="${high(losses.at(-1))}" r="4" fill="${BLUE}"/>`
}

function words(state) {
    const apart = sum(state.a.map((p, n) => Math.hypot(...minus(p, state.b[n])))) / state.a.length
    return `Loss ${loss(state).toFixed(4)}. Mean distance of the two points of an image: ` +
        `${apart.toFixed(2)}.`
}

export default explorer({
    panels: [
        { width: 330, height: 300, label: 'Points of two groups, which can be moved', draw: points },
        { width: 340, height: 300, label: 'Three matrices of weights, and the loss', draw: relations },
    ],
    handles, move, words, step: [x(0.1) - x(0), y(0) - y(0.1)],
    controls: [
        { press: 'descend', does: descend },
        { choose: 'moving', label: 'moves:', options: ['both groups', 'b alone'] },
    ],
})
