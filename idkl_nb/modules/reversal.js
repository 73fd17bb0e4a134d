// Gradient reversal (Section 3.1): what can be read in the course of recorded trainings
import { BLUE, ORANGE, axes, box, clip, explorer, line, scale, text } from './kit.js'
import recorded from './reversal.json' with { type: 'json' }

const { every, strengths, courses, modality } = recorded
const looks = courses[strengths[0]].modality.length

// ---------------------------------------------------------------- the course

const LEFT = 44, RIGHT = 370, BOTTOM = 215
const across = scale(0, looks - 1, LEFT, RIGHT), back = scale(LEFT, RIGHT, 0, looks - 1)
const up = scale(0, 1, BOTTOM, 30)
const curve = (shares, more) => line(shares.map((share, n) => [across(n), up(share)]), more)

function course(state) {
    const shown = courses[state.alpha]
    const others = strengths.filter(strength => strength !== state.alpha)
    const half = text(LEFT + 4, up(0.5) - 4, 'guessing: 50%', 'style="text-anchor:start" opacity="0.75"')
    return axes({ left: LEFT, right: RIGHT, top: 30, bottom: BOTTOM, x: [0, every * (looks - 1)],
        y: ['0%', '100%'], across: 'step', up: 'what can be read of unseen images' }) +
        line([[LEFT, up(0.5)], [RIGHT, up(0.5)]], 'opacity="0.5" stroke-dasharray="2 3"') + half +
        others.map(strength => curve(courses[strength].modality, 'opacity="0.25"')).join('') +
        curve(shown.modality, `style="stroke:${ORANGE}" stroke-width="2.5" stroke-dasharray="7 3"`) +
        curve(shown.identity, `style="stroke:${BLUE}" stroke-width="2.5"`) +
        line([[across(state.look), 30], [across(state.look), BOTTOM]], 'opacity="0.5"') +
        line([[LEFT, 252], [LEFT + 26, 252]], `style="stroke:${BLUE}" stroke-width="2.5"`) +
        text(LEFT + 32, 256, 'identity', 'style="text-anchor:start"') +
        line([[LEFT + 105, 252], [LEFT + 131, 252]],
            `style="stroke:${ORANGE}" stroke-width="2.5" stroke-dasharray="7 3"`) +
        text(LEFT + 137, 256, 'modality (faint: other strengths)', 'style="text-anchor:start"')
}

const says = ({ alpha, look }) => {
    const { modality, identity } = courses[alpha]
    return [modality[look], identity[look]].map(share => `${Math.round(100 * share)}%`)
}

const handles = state => [{
    key: 'look', x: across(state.look), y: BOTTOM,
    mark: '<circle r="7" fill="currentColor" fill-opacity="0.5" stroke="currentColor"/>',
    label: 'step of the training', value: every * state.look, range: [0, every * (looks - 1)],
    says: `step ${every * state.look}`,
}]

const move = (state, _, x) => ({ ...state, look: clip(Math.round(back(x)), 0, looks - 1) })

// ---------------------------------------------------------------- the features

const triangle = (x, y) => `<path d="M${x} ${y - 5}l5 9h-10z" fill="${ORANGE}" fill-opacity="0.7"/>`
const circle = (x, y) => `<circle cx="${x}" cy="${y}" r="4" fill="${BLUE}" fill-opacity="0.7"/>`

function features(state) {
    const { points } = courses[state.alpha]
    const most = Math.max(...points[state.look].flat().map(Math.abs))
    const place = scale(-most, most, 24, 216)
    const marks = points[state.look].map(([along, high], n) =>
        (modality[n] ? triangle : circle)(place(along), place(-high) + 10))
    return text(20, 23, `features at step ${every * state.look}`, 'style="text-anchor:start"') +
        box(14, 30, 212, 206, 'fill="none" stroke="currentColor" opacity="0.4"') + marks.join('') +
        circle(24, 252) + text(34, 256, 'visible', 'style="text-anchor:start"') +
        triangle(104, 252) + text(114, 256, 'infrared', 'style="text-anchor:start"')
}

// ---------------------------------------------------------------- the explorer

const words = state => {
    const [modality, identity] = says(state)
    const strength = state.alpha === 'discriminator' ? 'No reversal' : `Strength ${state.alpha}`
    return `${strength}, step ${every * state.look}: a probe reads the modality of ${modality} of ` +
        `the unseen images, the classifier the identity of ${identity}.`
}

const play = state => courses[state.alpha].modality.flatMap((_, look) =>
    Array(8).fill({ ...state, look }))

export default explorer({
    panels: [
        { width: 390, height: 265, label: 'What can be read, over the steps', draw: course },
        { width: 240, height: 265, label: 'Features of both modalities', draw: features },
    ],
    handles, move, words, step: [across(1) - across(0), 0],
    controls: [
        { choose: 'alpha', label: 'strength α:', options: strengths },
        { press: 'play the training', does: play },
    ],
})
