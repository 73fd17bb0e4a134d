// k-reciprocal re-ranking (Zhong et al., CVPR 2017) of points on a line
import { BLUE, ORANGE, box, clip, explorer, line, scale, text } from './kit.js'

// ---------------------------------------------------------------- the numbers

const sum = values => values.reduce((total, x) => total + x, 0)

// As Python rounds k / 2: a half goes to the even neighbour
const half = k => (k % 4 === 1 ? (k - 1) / 2 : Math.ceil(k / 2))

function steps({ gallery, query, k1, k2, share }) {
    const points = [...gallery, query], own = gallery.length
    const d = points.map(p => points.map(q => (p - q) ** 2))
    const scaled = d.map(row => row.map(x => x / Math.max(...row)))
    const ranks = d.map((row, p) => {
        const order = row.map((_, j) => j).filter(j => j !== p)
        return [p, ...order.sort((i, j) => row[i] - row[j])]
    })

    const near = (p, k) => ranks[p].slice(0, k + 1)
    const mutual = (p, k) => near(p, k).filter(j => near(j, k).includes(p))
    const expanded = p => {
        const members = mutual(p, k1)
        const joining = members.map(q => mutual(q, half(k1)))
            .filter(set => 3 * set.filter(j => members.includes(j)).length > 2 * set.length)
        return [...new Set([...members, ...joining.flat()])]
    }

    const alone = points.map((_, p) => {
        const set = expanded(p)
        const weights = points.map((_, j) => (set.includes(j) ? Math.exp(-scaled[p][j]) : 0))
        return weights.map(weight => weight / sum(weights))
    })
    const V = points.map((_, p) =>
        points.map((_, j) => sum(ranks[p].slice(0, k2).map(q => alone[q][j])) / k2))
    const blended = gallery.map((_, g) => {
        const s = sum(points.map((_, j) => Math.min(V[own][j], V[g][j])))
        return (1 - share) * (1 - s / (2 - s)) + share * scaled[own][g]
    })
    return { scaled: scaled[own].slice(0, own), blended,
        near: near(own, k1), mutual: mutual(own, k1), expanded: expanded(own) }
}

// ---------------------------------------------------------------- the picture

const END = 30  // the line goes from 0 to here
const x = scale(0, END, 15, 335), place = scale(15, 335, 0, END)
const DEEP = 185  // where the line is

function arcs(state) {
    const { near, mutual, expanded } = steps(state)
    const ways = state.gallery.map((at, g) => {
        if (!near.includes(g) && !expanded.includes(g)) return ''
        const from = x(state.query), to = x(at), reach = Math.abs(to - from) / 2
        const dash = mutual.includes(g) ? '' : expanded.includes(g) ? '8 4' : '1 5'
        const strong = expanded.includes(g)
        return `<path d="M${from} ${DEEP} A${reach} ${Math.min(reach, 150)} 0 0 ${to > from ? 1 : 0} ` +
            `${to} ${DEEP}" fill="none" stroke="${strong ? BLUE : ORANGE}" stroke-width="2" ` +
            `stroke-dasharray="${dash}" stroke-linecap="round"/>`
    })
    const rows = [['', BLUE, 'looks back'], ['8 4', BLUE, 'vouched for'], ['1 5', ORANGE, 'near, no more']]
    const legend = rows.map(([dash, colour, words], n) =>
        line([[12 + 112 * n, 246], [40 + 112 * n, 246]],
            `style="stroke:${colour}" stroke-width="2" stroke-dasharray="${dash}" stroke-linecap="round"`) +
        text(45 + 112 * n, 250, words, 'style="text-anchor:start"'))
    return line([[x(0), DEEP], [x(END), DEEP]], 'opacity="0.6"') + ways.join('') + legend.join('')
}

const handles = state => [...state.gallery, state.query].map((at, n) => {
    const own = n === state.gallery.length
    const mark = own ? box(-7, -7, 14, 14, `fill="${ORANGE}" stroke="currentColor"`)
        : `<circle r="7" fill="${BLUE}" stroke="currentColor"/>`
    return {
        key: String(n), x: x(at), y: DEEP,
        mark: mark + text(0, own ? 36 : 22, own ? 'query' : n + 1),
        label: own ? 'query' : `gallery image ${n + 1}`,
        value: at, range: [0, END], says: `at ${at}`,
    }
})

function move(state, key, left) {
    const at = Math.round(clip(place(left), 0, END) * 4) / 4, n = Number(key)
    if (n === state.gallery.length) return { ...state, query: at }
    return { ...state, gallery: state.gallery.map((old, i) => (i === n ? at : old)) }
}

const ranked = values => values.map((_, n) => n).sort((i, j) => values[i] - values[j])

// Both orders, and a line from a picture's place in the first to that in the second
function orders(state) {
    const { scaled, blended } = steps(state)
    const before = ranked(scaled), after = ranked(blended)
    const at = rank => 46 + 26 * rank
    const column = (left, side, order, values) => order.map((n, rank) =>
        text(left, at(rank) + 4, `<tspan font-weight="bold">${n + 1}</tspan> &#160; ${values[n].toFixed(3)}`,
            `style="text-anchor:${side}"`)).join('')
    const ways = state.gallery.map((_, n) => {
        const from = before.indexOf(n), to = after.indexOf(n)
        return line([[118, at(from)], [202, at(to)]],
            `style="stroke:${to < from ? BLUE : to > from ? ORANGE : 'currentColor'}" stroke-width="2"`)
    })
    return text(75, 20, 'plain distance') + text(245, 20, 're-ranked') + ways.join('') +
        column(110, 'end', before, scaled) + column(210, 'start', after, blended)
}

const names = list => list.map(n => n + 1).join(', ') || 'none'

function words(state) {
    const { near, mutual, expanded, blended } = steps(state)
    const others = list => names(list.filter(n => n !== state.gallery.length).sort((i, j) => i - j))
    return `Near the query: ${others(near)}. Reciprocal: ${others(mutual)}. ` +
        `Expanded: ${others(expanded)}. Order after re-ranking: ${names(ranked(blended))}.`
}

export default explorer({
    panels: [
        { width: 350, height: 260, label: 'Points on a line, which can be moved', draw: arcs },
        { width: 320, height: 260, label: 'The order before and after re-ranking', draw: orders },
    ],
    handles, move, words, step: [x(0.25) - x(0), 0],
    controls: [
        { slide: 'k1', label: 'k1', low: 2, high: 8, step: 1 },
        { slide: 'k2', label: 'k2', low: 1, high: 2, step: 1 },
        { slide: 'share', label: 'λ', low: 0, high: 1, step: 0.1 },
    ],
})
